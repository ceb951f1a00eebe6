//! The command line as data. Help lists what works and nothing else.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::base::clock::Timestamp;
use crate::diag::parse_duration;
use crate::domain::run::Effects;

/// Keeps AI monitoring agents at work around the clock.
#[derive(Debug, Parser)]
#[command(name = "nightcrew", version, about, max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Default, Args)]
pub struct Global {
    /// The configuration [default: config/nightcrew.yaml, then the user's and the system's]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where the journal is kept [default: $NIGHTCREW_STATE, then the user's state directory]
    #[arg(long, global = true, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Print everything as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// Print only the last block
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Log more; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Print without colours
    #[arg(long, global = true)]
    pub no_color: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the three shipped pipelines offline on bundled samples: no key, no account, no root
    Demo(DemoArgs),
    /// Write a commented configuration, three pipelines and an environment, fitted to a repository
    Init(InitArgs),
    /// Write one more pipeline from a template
    New(NewArgs),
    /// Say what is missing, one line each with the fix
    Doctor(DoctorArgs),
    /// Print what to make at a service and exactly what it may do, then probe what works
    Connect(ConnectArgs),
    /// Show every mistake at once; contacts nothing
    Validate(ValidateArgs),
    /// Build, check or enter the environments in which tests and agents run
    Env(EnvArgs),
    /// Show effective limits, models, prices, bindings, next slots and costs; spends nothing
    Plan(PlanArgs),
    /// Run a pipeline now
    Run(RunArgs),
    /// Run the daemon: pipelines on their schedules
    Serve(ServeArgs),
    /// Run a sandbox server that speaks E2B's protocol
    Sandboxd(SandboxdArgs),
    /// List runs, or show one whole
    Runs(RunsArgs),
    /// Show which slots of the schedules were due and what became of them
    Slots(SlotsArgs),
    /// List the errors that the intake has received, by group
    Errors(ErrorsArgs),
    /// List what pipelines know of errors and findings, or mute some
    Findings(FindingsArgs),
    /// Print what happened in a run
    Logs(LogsArgs),
    /// Stop a run for good
    Cancel(CancelArgs),
    /// Take up a run that was interrupted, blocked, capped or has failed
    Resume(ResumeArgs),
    /// Approve what a run asks for
    Approve(DecideArgs),
    /// Deny what a run asks for
    Deny(DecideArgs),
    /// Answer a run's question
    Answer(AnswerArgs),
    /// Show what was spent, by day and pipeline
    Costs(CostsArgs),
    /// Print the JSON schema of pipelines, for editors
    Schema(SchemaArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Holds the demo's state and output; an interrupted demo is resumed, a finished one begins anew in their place
    #[arg(default_value = "nightcrew-demo")]
    pub dir: PathBuf,
}

#[derive(Debug, Args)]
pub struct InitArgs {
    /// The repository, or an empty folder
    #[arg(default_value = ".")]
    pub dir: PathBuf,
}

#[derive(Debug, Args)]
pub struct NewArgs {
    /// The new pipeline's name, in kebab-case
    pub name: String,
    /// One of: analytics-report, code-health, error-to-pr
    #[arg(long, value_name = "TEMPLATE")]
    pub from: String,
}

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Ask each configured service what it lets us do; without it nothing is contacted
    #[arg(long)]
    pub online: bool,
}

#[derive(Debug, Args)]
pub struct ConnectArgs {
    #[arg(value_enum)]
    pub service: ConnectTo,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ConnectTo {
    Slack,
    Github,
    Sentry,
}

#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// Pipelines or folders of pipelines [default: the configuration and pipelines/*.yaml]
    pub paths: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub struct EnvArgs {
    #[command(subcommand)]
    pub act: EnvAct,
}

#[derive(Debug, Subcommand)]
pub enum EnvAct {
    /// Run the setup commands, unless they have been run for what they read
    Build {
        #[command(flatten)]
        which: WhichEnv,
        /// Run them in any case
        #[arg(long)]
        anew: bool,
    },
    /// Run the checks on the code as it is committed now
    Check {
        #[command(flatten)]
        which: WhichEnv,
    },
    /// Enter a copy of it: confined, without network; what is changed there is thrown away
    Shell {
        #[command(flatten)]
        which: WhichEnv,
        /// A command and its arguments in the place of a shell
        #[arg(last = true, value_name = "CMD")]
        command: Vec<String>,
    },
}

/// Which environment is meant.
#[derive(Debug, Args)]
pub struct WhichEnv {
    /// A pipeline's name, or the environment's file [default: those of all pipelines]
    pub environment: Option<String>,
    /// What the pipeline's repository is bound to
    #[arg(long, default_value = "local")]
    pub profile: String,
}

#[derive(Debug, Args)]
pub struct PlanArgs {
    /// A pipeline's name or file
    pub pipeline: String,
    #[arg(long, default_value = "local")]
    pub profile: String,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// A pipeline's name or file
    pub pipeline: String,
    /// What the names in the pipeline are bound to [default: local; beside a daemon, the daemon's]
    #[arg(long)]
    pub profile: Option<String>,
    /// A parameter of the pipeline; may be repeated
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = name_value)]
    pub set: Vec<(String, String)>,
    /// A JSON file with the item that a trigger would carry
    #[arg(long, value_name = "FILE")]
    pub event: Option<PathBuf>,
    /// Stop after this step
    #[arg(long, value_name = "STEP")]
    pub until: Option<String>,
    /// Take over the results of an earlier run, up to --step
    #[arg(long, value_name = "RUN", requires = "step")]
    pub from: Option<String>,
    /// The first step that is run anew
    #[arg(long, value_name = "STEP", requires = "from")]
    pub step: Option<String>,
    /// Publish less than pipeline and configuration allow
    #[arg(long, value_parser = effects)]
    pub effects: Option<Effects>,
    /// Write the models' answers to a tape
    #[arg(long, value_name = "TAPE")]
    pub record: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Address of /healthz and /readyz [default: the configuration's, else 127.0.0.1:7717]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    #[arg(long, default_value = "cloud")]
    pub profile: String,
    /// Go to work on a restored backup, after making sure that no other server works from it
    #[arg(long)]
    pub take_over: bool,
}

#[derive(Debug, Args)]
pub struct SandboxdArgs {
    /// Address to answer on [default: 127.0.0.1:7720]
    #[arg(long, value_name = "ADDR", conflicts_with = "attached")]
    pub listen: Option<String>,
    /// A file with the API key that callers must send [default: one is made and kept in the state directory]
    #[arg(long, value_name = "FILE", conflicts_with = "attached")]
    pub api_key_file: Option<PathBuf>,
    /// A root file system for templates: a directory, an OCI layout or an archive of `docker save`; may be repeated
    #[arg(long, value_name = "NAME=PATH", value_parser = image, conflicts_with = "attached")]
    pub image: Vec<(String, PathBuf)>,
    /// Serve the process that has started this one, which says the rest on standard input
    #[arg(long, hide = true)]
    pub attached: bool,
}

#[derive(Debug, Args)]
pub struct RunsArgs {
    /// A run, or the beginning or end of its id
    pub id: Option<String>,
    #[arg(long)]
    pub pipeline: Option<String>,
    /// Only runs that have not ended
    #[arg(long)]
    pub open: bool,
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub limit: u32,
}

#[derive(Debug, Args)]
pub struct SlotsArgs {
    pub pipeline: Option<String>,
    #[arg(long, default_value_t = 40, value_name = "N")]
    pub limit: u32,
}

#[derive(Debug, Args)]
pub struct ErrorsArgs {
    /// Of this project only, by its name under `intake.projects`
    pub project: Option<String>,
    /// One error whole, by its id (E-3F9C1A) or its key
    #[arg(requires = "project")]
    pub issue: Option<String>,
    /// The newest so many
    #[arg(long, default_value_t = 50)]
    pub limit: u32,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct FindingsArgs {
    #[command(subcommand)]
    pub act: Option<FindingsAct>,
    #[arg(long)]
    pub pipeline: Option<String>,
    /// Also what is fixed, and what a first run only recorded
    #[arg(long)]
    pub all: bool,
}

#[derive(Debug, Subcommand)]
pub enum FindingsAct {
    /// Hear nothing of a finding for a time, or until it is unmuted
    Mute(MuteArgs),
    /// Never hear of a finding again
    Dismiss(DismissArgs),
    /// Hear of a muted finding again when it gets worse or comes back
    Unmute(UnmuteArgs),
}

#[derive(Debug, Args)]
pub struct MuteArgs {
    /// A finding's id or the beginning of it, or its fingerprint
    pub id: String,
    /// Kept with the finding
    #[arg(long)]
    pub reason: String,
    /// A day, whose beginning in UTC counts, or a moment such as 2026-12-24T08:00:00Z
    #[arg(long, value_name = "DATE", value_parser = moment)]
    pub until: Option<Timestamp>,
    /// How long, such as 30d or 12h [default: until it is unmuted]
    #[arg(long = "for", value_name = "TIME", value_parser = long, conflicts_with = "until")]
    pub duration: Option<Duration>,
}

#[derive(Debug, Args)]
pub struct DismissArgs {
    /// A finding's id or the beginning of it, or its fingerprint
    pub id: String,
    /// Kept with the finding
    #[arg(long)]
    pub reason: String,
}

#[derive(Debug, Args)]
pub struct UnmuteArgs {
    /// A finding's id or the beginning of it, or its fingerprint
    pub id: String,
}

#[derive(Debug, Args)]
pub struct LogsArgs {
    /// A run, or the beginning or end of its id
    pub id: String,
    /// Go on until the run has ended
    #[arg(short, long)]
    pub follow: bool,
}

#[derive(Debug, Args)]
pub struct CancelArgs {
    /// A run, or the beginning or end of its id
    pub id: String,
    #[arg(long, default_value = "stopped by hand")]
    pub reason: String,
}

#[derive(Debug, Args)]
pub struct ResumeArgs {
    /// A run, or the beginning or end of its id; without it every run that was interrupted
    pub id: Option<String>,
    /// Lift the run's cap, and its pipeline's cap of the day, by this much
    #[arg(long, value_name = "N", requires = "id", value_parser = dollars)]
    pub add_usd: Option<f64>,
}

#[derive(Debug, Args)]
pub struct DecideArgs {
    /// A run, or the beginning or end of its id
    pub id: String,
    /// Which of its questions, when there are several
    #[arg(long)]
    pub step: Option<String>,
    /// Shown with the decision
    #[arg(long)]
    pub reason: Option<String>,
}

#[derive(Debug, Args)]
pub struct AnswerArgs {
    /// A run, or the beginning or end of its id
    pub id: String,
    pub text: String,
    /// Which of its questions, when there are several
    #[arg(long)]
    pub step: Option<String>,
}

#[derive(Debug, Args)]
pub struct CostsArgs {
    #[arg(long, default_value_t = 30, value_name = "N")]
    pub days: u32,
}

#[derive(Debug, Args)]
pub struct SchemaArgs {
    /// List the functions of expressions instead
    #[arg(long)]
    pub cel: bool,
}

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    pub shell: clap_complete::Shell,
}

fn name_value(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.trim().to_owned(), value.to_owned()))
}

fn image(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = text.split_once('=').ok_or("write NAME=PATH")?;
    let path = std::path::absolute(path.trim()).map_err(|error| error.to_string())?;
    Ok((name.trim().to_owned(), path))
}

fn moment(text: &str) -> Result<Timestamp, String> {
    let day = || text.parse::<jiff::civil::Date>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok();
    let moment = text.parse().ok().or_else(|| day().map(|day| day.timestamp()));
    moment.ok_or_else(|| "write a day like 2026-12-24, or a moment like 2026-12-24T08:00:00Z".to_owned())
}

fn long(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text).filter(|duration| !duration.is_zero());
    duration.ok_or_else(|| "write a number with its unit, like 30d or 12h".to_owned())
}

fn effects(text: &str) -> Result<Effects, String> {
    text.parse().map_err(|_| "preview or live".to_owned())
}

fn dollars(text: &str) -> Result<f64, String> {
    let amount: f64 = text.trim_start_matches('$').parse().map_err(|_| "an amount in dollars, like 5 or 0.50")?;
    if amount.is_finite() && amount > 0.0 { Ok(amount) } else { Err("more than nothing".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        let cli = Cli::try_parse_from(["nightcrew", "run", "a", "--set", "x=1=2", "--json"]).unwrap();
        assert!(cli.global.json);
        assert!(matches!(cli.command, Command::Run(run) if run.set == [("x".to_owned(), "1=2".to_owned())]));
        assert!(Cli::try_parse_from(["nightcrew", "resume", "--add-usd", "5"]).is_err(), "money needs a run");
    }
}
