//! The one test binary: a module per area.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

/// Slack as a place to answer, approve and command.
mod chat;
/// Who judges exactly-once from the stand-ins' logs, and whether he sees what is wrong.
mod auditor;
/// Commands as a person or a script types them.
mod cli;
/// Sandboxes over a stand-in of E2B's cloud: faults at every point, nothing left over there.
mod cloud;
/// Agents at work on code: the tools under both bindings, the sandbox behind them, and what blocks a run.
mod code_tools;
/// What to make at a service, and what of it works.
mod connect;
/// A crash after every journal entry.
mod crash;
/// The process that holds a state directory, and others beside it.
mod daemon;
/// The offline demo, and how its tape is made.
mod demo;
/// The client of E2B's protocol against a scripted cloud, and against our own server.
mod e2b;
/// The shipped fix over sandboxes elsewhere, with the real binary: faults on the way, kills, and nothing left.
mod e2b_run;
/// Environments by hand, and what `doctor` says about them.
mod env;
/// Stand-ins for the services outside.
mod fakes;
/// What pipelines remember of errors: only what is new costs anything.
mod findings;
/// Published runs over stand-ins of the services: once, whatever dies and whatever breaks.
mod exactly_once;
/// A fix over real trees, down to the branch that comes of it.
mod fix;
/// Patches that are honest, and patches that only look so, before the real judge.
mod gaming;
/// What our client of E2B sends, beside what E2B's own SDKs send.
mod golden;
/// Rules about the code itself.
mod house;
/// Errors sent to the real daemon as SDKs send them.
mod intake;
/// Commands that try to get out of their sandbox, under every tier that this machine has.
mod isolation;
/// Work on code that is blocked, capped, cancelled, stopped or killed, and goes on.
mod interrupted;
/// The model providers against a scripted server: what is sent, what is understood, what is refused.
mod models;
/// Tickets and drafts, once and found again.
mod publish;
/// The real process, killed at random.
mod process;
/// A real PostgreSQL behind the source of that name.
mod postgres;
/// Whole runs: limits, signals, outages, bad answers, upgrades.
mod runs;
/// Pipelines as a user writes them: mistakes, their hints and their texts.
mod paid;
mod pipeline;
/// A user's folder, and the real binary run in it.
mod project;
/// Environments and commands in the sandbox of this machine.
mod sandbox;
/// The sandbox server over HTTP.
mod sandboxd;
/// Scans of a real clone in the real sandbox.
mod scan;
/// A secret that is refused, and sinks of the configuration.
mod secrets;
/// Sentry as a source, as a trigger by polling and by webhooks, and notes back to it.
mod sentry;
/// The shipped report over other services, which tell the keys they were given.
mod serve;
/// Reports in Slack, each once.
mod slack;
/// The stand-ins of GitHub, Slack and Sentry are as strict as the services.
mod services;
/// Sources over the samples that ship.
mod sources;
/// Tickets as issues on a stand-in of GitHub, and the ledger that hears of them.
mod tickets;
/// What goes wrong around the process, and what a person is told.
mod trouble;
/// A state directory, an engine and a scripted model, for tests of whole runs.
mod world;
/// Repositories, trees, edits, patches, worktrees and the tools that read them, against real and hostile repositories.
mod workspace;
