//! One question to a model until it has a typed answer: the boss's loop with tools, and, without tools, an intern's
//! single question.
//!
//! A turn is one request with its answer and the tool calls it asks for. The loop ends with an answer of the right type, with
//! `capped` after one closing call from the slice held back for that, or with a stop that says why. Invariants: every tool
//! call gets a result in the next message; bytes that were sent are sent again unchanged (until a compaction); a call that
//! was cut off is never performed; an answer is corrected at most once for its type and once for its evidence.

use std::cell::RefCell;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::domain::activity::{Activity, CodeAt};
use crate::domain::model::{Block, Message, ModelAnswer, ModelRequest, Role, StopReason};
use crate::domain::money::Cap;
use crate::domain::run::Failure;
use crate::expr::types::Type;
use crate::ports::durable::{DurableContext, Stop};

pub use super::calls::Toolbox;
use super::calls::{self, Calls, MOST_INPUT};
use super::check::{self, Evidence};
use super::prompt::{self, Given};
use super::transcript::{self, Keep, Transcript};
use super::{E_CONTEXT, E_LACKING, E_LENGTH, E_LOOP, E_OUTPUT, E_REFUSED, failed, output};

/// A transcript above this is compacted before the next request, in bytes.
const MOST_TRANSCRIPT: usize = 480 * 1024;
/// A message above this is not sent back, in bytes.
const MOST_MESSAGE: usize = 256 * 1024;
/// Messages at the end that a compaction leaves alone, and the least size of a result worth moving.
const RECENT: usize = 4;
const LEAST_MOVED: usize = 1024;
/// Times that a model may pause before it says something.
const MOST_PAUSES: u32 = 10;

const CLOSING: &str = "The limit of this run is reached. No more tools. Conclude now with what is known, in the type of the \
                       answer; say what remains open as unknown.";
const LAST_TURN: &str = "This is the last turn of this step. No more tools. Conclude now with what is known, in the type of \
                         the answer; say what remains open as unknown.";

/// What is asked, of whom, and what the answer is held against.
pub struct Question<'a> {
    pub ctx: &'a dyn DurableContext,
    pub role: Role,
    /// In front of the labels of its activities: empty, `escalation/`, `audit/`.
    pub label: &'a str,
    pub system: Arc<str>,
    pub given: Vec<Given>,
    /// A map.
    pub output: &'a Type,
    /// The item keys of a step, for `key(step)`.
    pub keys: &'a dyn Fn(&str) -> Vec<String>,
    pub evidence: Evidence,
    /// `None`: one question without tools.
    pub tools: Option<Toolbox>,
    /// The code that its tools look at and edit; holds the newest tree. `None`: the run has none.
    pub code: Option<&'a RefCell<CodeAt>>,
    /// How large results are condensed. `None`: they are not.
    pub condense: Option<Condense>,
    /// Requests at most. The last one must conclude.
    pub max_turns: Option<u32>,
    /// Counts against the run's `max_turns`.
    pub counts_turn: bool,
    /// At a cap, conclude with one call from the slice held back.
    pub closing: bool,
}

/// What an intern is told when it condenses a large result.
#[derive(Clone, Debug)]
pub struct Condense {
    pub pipeline: String,
    pub summary: String,
    pub asked: String,
}

/// A typed answer.
#[derive(Debug)]
pub struct Answered {
    pub value: Map<String, Value>,
    pub turns: u32,
    /// The cap at which it was concluded early.
    pub capped: Option<(Cap, String)>,
}

/// Asks until there is an answer.
///
/// Errors: `E-OUTPUT`, `E-REFUSED`, `E-LENGTH`, `E-CONTEXT`, `E-LOOP`; `E-LACKING` (blocked) when the agent complained and has
/// no answer; `Capped` without an answer; whatever ends an activity.
pub async fn answer(question: &Question<'_>) -> Result<Answered, Stop> {
    let mut talk = Talk {
        question,
        schema: Arc::new(question.output.json_schema()),
        tools: question.tools.as_ref().map(|tools| tools.specs.clone()).unwrap_or_default(),
        evidence: question.evidence.clone(),
        transcript: Transcript::default(),
        calls: Calls::default(),
        turn: 0,
        corrected: false,
        cut_off: false,
        compacted: false,
        pauses: 0,
        doubtful: None,
        capped: None,
    };
    talk.begin().await?;
    loop {
        match talk.turn().await {
            Ok(Some(answered)) => return Ok(answered),
            Ok(None) => {}
            Err(stop) => return talk.salvage(stop),
        }
    }
}

struct Talk<'q, 'a> {
    question: &'q Question<'a>,
    schema: Arc<Value>,
    tools: Arc<Vec<crate::domain::model::ToolSpec>>,
    /// With what the tools returned.
    evidence: Evidence,
    transcript: Transcript,
    calls: Calls,
    turn: u32,
    corrected: bool,
    cut_off: bool,
    compacted: bool,
    pauses: u32,
    /// An answer of the right type of which some sentences do not stand; it was sent back once.
    doubtful: Option<Value>,
    capped: Option<(Cap, String)>,
}

impl Talk<'_, '_> {
    async fn begin(&mut self) -> Result<(), Stop> {
        let question = self.question;
        let mut notices = Vec::new();
        if question.tools.is_some() {
            for (n, given) in question.given.iter().enumerate().filter(|(_, given)| prompt::is_clipped(&given.value)) {
                let text = prompt::clean(&prompt::render(&given.value));
                let label = format!("{}given-{}", question.label, n + 1);
                let artifact = calls::keep(question.ctx, &label, &given.label, text).await?;
                notices.push((n, format!("the whole of it is artifact `{}`, {} lines", artifact.id, artifact.lines)));
                self.calls.know(artifact);
            }
        }
        self.tell(prompt::data(&question.given, &notices))
    }

    /// Says something to the model, recorded.
    fn tell(&mut self, text: String) -> Result<(), Stop> {
        self.question.ctx.message(&transcript::raw(&Message::user(text.as_str()))?);
        self.transcript.say(Block::Text { text });
        Ok(())
    }

    fn request(&mut self, no_tools: bool, from_report_slice: bool) -> Result<ModelRequest, Stop> {
        Ok(ModelRequest {
            role: self.question.role,
            system: self.question.system.clone(),
            tools: self.tools.clone(),
            messages: self.transcript.messages()?,
            output_schema: Some(self.schema.clone()),
            no_tools,
            known_prefix: self.transcript.known_prefix(),
            items: Vec::new(),
            from_report_slice,
            counts_turn: self.question.counts_turn,
        })
    }

    /// One turn. `Some`: the answer.
    async fn turn(&mut self) -> Result<Option<Answered>, Stop> {
        let question = self.question;
        self.turn += 1;
        if question.tools.is_some() {
            self.steer().await?;
        }
        if self.transcript.bytes() > MOST_TRANSCRIPT {
            self.compact().await?;
        }
        let last = question.max_turns.is_some_and(|most| self.turn >= most);
        if last && self.turn > 1 && question.tools.is_some() && self.doubtful.is_none() && !self.corrected {
            self.tell(LAST_TURN.to_owned())?;
            self.capped = Some((Cap::Turns, "the step's own `max_turns` is reached".into()));
        }
        let request = self.request(last, false)?;
        let label = format!("{}turn-{}", question.label, self.turn);
        let answer: ModelAnswer = match question.ctx.perform(&label, Activity::Model(request)).await {
            Ok(recorded) => recorded.decode()?,
            Err(Stop::Failed(failure)) if failure.code == E_CONTEXT => return self.make_room().await,
            Err(Stop::Capped { cap, message }) if question.closing && self.doubtful.is_none() => {
                return self.close(cap, message).await.map(Some);
            }
            Err(stop) => return Err(stop),
        };
        match &answer.stop {
            StopReason::Refusal { why } => {
                let why = why.as_deref().map(|why| format!(": {}", prompt::clean(why))).unwrap_or_default();
                return Err(failed(E_REFUSED, format!("the model declined to answer{why}")));
            }
            StopReason::ContextExceeded => return self.make_room().await,
            StopReason::PauseTurn => {
                match transcript::read(&answer.message)?.calls.is_empty() {
                    true => self.transcript.answered(answer.message, &answer.usage),
                    false => self.transcript.answered_without(&answer.message, &answer.usage, |_| Keep::No)?,
                }
                self.pauses += 1;
                if last || self.pauses > MOST_PAUSES {
                    return Err(failed(E_LOOP, "the model pauses again and again without an answer"));
                }
                return Ok(None);
            }
            StopReason::MaxTokens => {
                if std::mem::replace(&mut self.cut_off, true) || last {
                    return Err(failed(E_LENGTH, "the model's answer did not fit into its output tokens"));
                }
                self.transcript.answered_without(&answer.message, &answer.usage, |_| Keep::No)?;
                self.tell("Your message was cut off at the length limit. Say it again, shorter and whole.".into())?;
                return Ok(None);
            }
            StopReason::EndTurn | StopReason::ToolUse | StopReason::StopSequence | StopReason::Other(_) => {}
        }
        let said = transcript::read(&answer.message)?;
        match &question.tools {
            Some(toolbox) if !said.calls.is_empty() && !last => {
                if said.calls.iter().any(|call| call.input.to_string().len() > MOST_INPUT) {
                    self.transcript.answered_without(&answer.message, &answer.usage, |call| {
                        match call.input.to_string().len() {
                            long if long > MOST_INPUT => Keep::Instead(json!({"left_out": format!("{long} bytes")})),
                            _ => Keep::Yes,
                        }
                    })?;
                } else {
                    self.transcript.answered(answer.message, &answer.usage);
                }
                let results = self.calls.perform(question, toolbox, self.turn, &said.calls, &mut self.evidence).await?;
                results.into_iter().for_each(|block| self.transcript.say(block));
                Ok(None)
            }
            _ => {
                let bytes = answer.message.get().len();
                if bytes > MOST_MESSAGE {
                    self.transcript.answered_at_length(bytes, &answer.usage)?;
                } else if said.calls.is_empty() && !said.text.is_empty() {
                    self.transcript.answered(answer.message, &answer.usage);
                } else {
                    // Calls where there are no tools are not performed, and not sent back without results; nor is nothing.
                    self.transcript.answered_without(&answer.message, &answer.usage, |_| Keep::No)?;
                }
                self.conclude(&said.text, last)
            }
        }
    }

    /// What a person says while the agent works.
    async fn steer(&mut self) -> Result<(), Stop> {
        if let Some(signal) = self.question.ctx.poll_signal("steer").await? {
            let text = signal.value.as_str().or(signal.value["text"].as_str()).unwrap_or_default();
            if !text.trim().is_empty() {
                self.tell(format!("A person who runs this pipeline says: {}", prompt::clean(text)))?;
            }
        }
        Ok(())
    }

    /// Takes the answer, or asks once more.
    fn conclude(&mut self, text: &str, last: bool) -> Result<Option<Answered>, Stop> {
        match output::read(text, self.question.output, self.question.keys) {
            Err(mistakes) => {
                if self.corrected || last || self.doubtful.is_some() || !self.calls.complaints.is_empty() {
                    let list = mistakes.join("; ");
                    return Err(failed(
                        E_OUTPUT,
                        format!("the model's answer is not of the type that was asked for: {list}"),
                    ));
                }
                self.corrected = true;
                let list = mistakes.join("\n- ");
                self.tell(format!(
                    "Your answer cannot be used:\n- {list}\nAnswer again: one JSON value of the type, nothing else."
                ))?;
                Ok(None)
            }
            Ok(fields) => {
                let value = Value::Object(fields);
                let examined = check::examine(&value, self.question.output, &self.evidence);
                if examined.wrong.is_empty() || self.doubtful.is_some() || last {
                    return Ok(Some(self.finish(value)));
                }
                self.doubtful = Some(value);
                let list = examined.wrong.iter().take(12).cloned().collect::<Vec<_>>().join("\n- ");
                self.tell(format!(
                    "Some of this does not stand in the data:\n- {list}\nAnswer again with these corrected or left out: one JSON \
                     value of the type, nothing else."
                ))?;
                Ok(None)
            }
        }
    }

    /// The answer without the sentences that do not stand; counted and noted.
    fn finish(&mut self, mut value: Value) -> Answered {
        let ctx = self.question.ctx;
        let examined = check::drop_wrong(&mut value, self.question.output, &self.evidence);
        if !self.evidence.is_empty() {
            ctx.note("figures_checked", json!({"n": examined.figures}));
        }
        for sentence in &examined.dropped {
            let sentence: String = sentence.chars().take(300).collect();
            ctx.note("sentence_dropped", json!({"sentence": sentence}));
        }
        let value = if let Value::Object(fields) = value { fields } else { Map::new() };
        Answered { value, turns: self.turn, capped: self.capped.take() }
    }

    /// One closing call from the slice held back; without an answer the cap itself.
    async fn close(&mut self, cap: Cap, message: String) -> Result<Answered, Stop> {
        let capped = Stop::Capped { cap, message: message.clone() };
        self.tell(CLOSING.to_owned())?;
        let request = self.request(true, true)?;
        let label = format!("{}closing", self.question.label);
        let answer: ModelAnswer = match self.question.ctx.perform(&label, Activity::Model(request)).await {
            Ok(recorded) => recorded.decode()?,
            Err(stop) if stop.is_final() => return Err(stop),
            Err(_) => return Err(capped),
        };
        let Ok(said) = transcript::read(&answer.message) else { return Err(capped) };
        match output::read(&said.text, self.question.output, self.question.keys) {
            Ok(fields)
                if matches!(answer.stop, StopReason::EndTurn | StopReason::StopSequence | StopReason::Other(_)) =>
            {
                self.capped = Some((cap, message));
                Ok(self.finish(Value::Object(fields)))
            }
            _ => Err(capped),
        }
    }

    /// After the model said that the transcript is too long: compacts once.
    async fn make_room(&mut self) -> Result<Option<Answered>, Stop> {
        let too_long = || failed(E_CONTEXT, "the transcript does not fit into the model's context");
        if std::mem::replace(&mut self.compacted, true) || !self.compact().await? {
            return Err(too_long());
        }
        Ok(None)
    }

    /// Moves old tool results into artifacts. False when there is nothing to move.
    async fn compact(&mut self) -> Result<bool, Stop> {
        let question = self.question;
        let old = self.transcript.old_results(RECENT, LEAST_MOVED);
        if old.is_empty() || question.tools.is_none() {
            return Ok(false);
        }
        let moved = old.len();
        for (n, (at, block, text)) in old.into_iter().enumerate() {
            let start: String = text.chars().take(200).collect();
            let label = format!("{}turn-{}/compact-{}", question.label, self.turn, n + 1);
            let artifact = calls::keep(question.ctx, &label, "an earlier tool result", text).await?;
            let told = format!(
                "(moved to artifact `{}`, {} lines; it began:)\n{}",
                artifact.id,
                artifact.lines,
                prompt::fence("start", &start)
            );
            self.transcript.replace_result(at, block, told)?;
            self.calls.know(artifact);
        }
        question.ctx.note("compacted", json!({"results": moved, "turn": self.turn}));
        Ok(true)
    }

    /// An end without an answer: a doubtful answer is better than none, a cap stays a cap, and an agent that said what it
    /// lacks is blocked by that.
    fn salvage(&mut self, stop: Stop) -> Result<Answered, Stop> {
        if stop.is_final() {
            return Err(stop);
        }
        if let Some(value) = self.doubtful.take() {
            return Ok(self.finish(value));
        }
        match (stop, self.capped.take(), self.calls.complaints.first()) {
            (Stop::Failed(_), _, Some(complaint)) => {
                let what = format!("the agent lacks {}: {}", complaint.kind, complaint.need);
                Err(Stop::Blocked(Failure::new(E_LACKING, what).help(complaint.evidence.clone())))
            }
            (Stop::Failed(_), Some((cap, message)), None) => Err(Stop::Capped { cap, message }),
            (stop, _, _) => Err(stop),
        }
    }
}
