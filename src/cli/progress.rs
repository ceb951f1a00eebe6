//! A run as it goes on: live lines on a terminal, one plain line per change without one.
//!
//! Everything shown comes from the journal, so it is the same for a run of this process and for one of the daemon. What a line
//! says is decided in `sinks::terminal`; here is only when it is drawn and how it is replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::time::{Duration, Instant};

use tokio::sync::{broadcast, watch};

use super::session::Session;
use super::show;
use crate::base::clock::Timestamp;
use crate::base::ids::RunId;
use crate::control::{Client, Reply, Request};
use crate::domain::run::Effects;
use crate::domain::view::{RunView, StepView};
use crate::engine::Live as Said;
use crate::journal::Reader;
use crate::sinks::terminal::{self, Live, SPINNER, Style};

/// Redraws and looks at the journal are at least this far apart.
const FRAME: Duration = Duration::from_millis(100);
/// What takes less than this between two steps is not told.
const SHORT: Duration = Duration::from_millis(300);
/// Live lines beyond this many would scroll; the rest is counted.
const MOST_LIVE: usize = 20;
/// As many characters of what a model says are shown, at most.
const HEARD: usize = 60;

/// How one hears that something was written.
#[derive(Debug)]
pub enum News {
    /// In the process that writes.
    Watch(watch::Receiver<i64>),
    /// Beside it.
    Poll,
}

/// Where one hears what the models are saying.
pub enum Talk {
    /// From the engine of this process.
    Engine(broadcast::Receiver<Said>),
    /// From the holder, in answer to `Live`.
    Holder(Client),
    /// Nowhere, or no more.
    Silent,
}

impl Talk {
    /// Asks the holder for a run's live text. Without an answer there is none, and that is all.
    pub async fn of_holder(session: &Session, run: &RunId) -> Self {
        match session.holder().await {
            Ok(Some(mut client)) if session.ui.live => {
                match client.send(&Request::Live { run: Some(run.clone()) }).await {
                    Ok(()) => Self::Holder(client),
                    Err(_) => Self::Silent,
                }
            }
            _ => Self::Silent,
        }
    }

    /// The next piece: (path, text). Pends for ever once there is no more.
    async fn next(&mut self, run: &RunId) -> (String, String) {
        loop {
            match self {
                Self::Engine(live) => match live.recv().await {
                    Ok(said) if said.run == *run => return (said.path, said.text),
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => *self = Self::Silent,
                },
                Self::Holder(client) => match client.next().await {
                    Ok(Reply::Text { path, text, .. }) => return (path, text),
                    Ok(_) | Err(_) => *self = Self::Silent,
                },
                Self::Silent => std::future::pending().await,
            }
        }
    }
}

/// Follows one run.
pub struct Progress<'a> {
    session: &'a Session,
    reader: Reader,
    run: RunId,
    news: News,
    talk: Talk,
    /// The end of what was said, by the path of the call.
    said: BTreeMap<String, String>,
    /// What finished lines were printed for, by path and time of their end.
    printed: BTreeSet<(String, String)>,
    /// What answers for the roles; read once.
    models: Option<Vec<String>>,
    /// Where commands run, if the run has any.
    sandbox: Option<String>,
    begun: BTreeSet<String>,
    /// Lines on the terminal that the next frame replaces.
    live_lines: usize,
    headed: bool,
    frame: usize,
    /// Reading a long run takes time: looks keep a distance in proportion.
    pause: Duration,
}

impl<'a> Progress<'a> {
    pub fn new(session: &'a Session, reader: Reader, run: RunId, news: News, talk: Talk) -> Self {
        Self {
            session,
            reader,
            run,
            news,
            talk,
            said: BTreeMap::new(),
            printed: BTreeSet::new(),
            models: None,
            sandbox: None,
            begun: BTreeSet::new(),
            live_lines: 0,
            headed: false,
            frame: 0,
            pause: FRAME,
        }
    }

    /// Says in the first line where the run's commands are confined.
    pub fn in_sandbox(mut self, sandbox: Option<String>) -> Self {
        self.sandbox = sandbox;
        self
    }

    /// Shows the run until the future resolves. Cancel safe, as far as the terminal goes.
    pub async fn until<T>(&mut self, ended: impl Future<Output = T>) -> anyhow::Result<T> {
        tokio::pin!(ended);
        let quiet = self.session.ui.quiet || self.session.ui.json;
        loop {
            if !quiet {
                self.look()?;
            }
            tokio::select! {
                answer = &mut ended => {
                    if !quiet {
                        self.look()?;
                        self.wipe();
                    }
                    return Ok(answer);
                }
                () = self.tick() => {}
            }
        }
    }

    /// Until there may be something to draw.
    async fn tick(&mut self) {
        let live = self.session.ui.live;
        if live {
            let (mut talk, run) = (std::mem::replace(&mut self.talk, Talk::Silent), self.run.clone());
            let pause = tokio::time::sleep(self.pause);
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    (path, text) = talk.next(&run) => self.hear(path, &text),
                }
            }
            self.talk = talk;
            return;
        }
        match &mut self.news {
            // Without a spinner only news matter.
            News::Watch(seen) => {
                // The writer has closed: then the run has ended, or is suspended.
                if seen.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(self.pause).await;
            }
            News::Poll => tokio::time::sleep(self.pause).await,
        }
    }

    /// Keeps the last words of a call.
    fn hear(&mut self, path: String, text: &str) {
        let said = self.said.entry(path).or_default();
        said.push_str(text);
        let much = said.chars().count().saturating_sub(HEARD);
        if much > 0 {
            *said = said.chars().skip(much).collect();
        }
    }

    /// What an open step is doing, in a few words. A parent says nothing itself: its children have lines of their own.
    fn doing(&self, view: &RunView, step: &StepView, parent: bool) -> String {
        if let Some((_, ask)) = view.questions.iter().find(|(path, _)| *path == step.path || is_below(path, &step.path))
        {
            return format!("asks: {ask}");
        }
        let mut said = self.said.iter().rev().filter(|_| !parent);
        let words = said.find(|(path, _)| is_below(path, &step.path)).map(|(_, said)| said.trim());
        match words.filter(|words| !words.is_empty()) {
            Some(words) => format!("…{}", words.split_whitespace().collect::<Vec<_>>().join(" ")),
            None => step.kind.clone(),
        }
    }

    /// Reads the run and draws what changed.
    fn look(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        let Some(view) = self.reader.run(self.run.as_str())? else { return Ok(()) };
        self.pause = FRAME.max(began.elapsed() * 10);
        if self.session.ui.live {
            self.draw(&view)
        } else {
            self.tell(&view)
        }
        Ok(())
    }

    fn models(&mut self, view: &RunView) -> Vec<String> {
        self.models.get_or_insert_with(|| show::models(&self.reader, view)).clone()
    }

    fn style(&self) -> Style {
        Style { color: self.session.ui.color_err(), width: self.session.ui.width() }
    }

    fn draw(&mut self, view: &RunView) {
        let style = self.style();
        let mut out = String::new();
        if !self.headed {
            self.headed = true;
            out.push_str(&terminal::header(view, &self.models(view), self.sandbox.as_deref(), style));
            out.push('\n');
        }
        // The steps of an item stay together: they are printed below it once it has ended.
        let items: Vec<String> = view
            .steps
            .iter()
            .filter(|step| step.outcome.is_none() && step.path.ends_with(']'))
            .map(|step| step.path.clone())
            .collect();
        let waits = |step: &StepView| items.iter().any(|item| is_below(&step.path, item));
        for step in self.finished(view, waits) {
            out.push_str(&terminal::step_line(&step, None, style));
            out.push('\n');
        }
        self.frame += 1;
        let now = self.session.env.now();
        let open: Vec<&StepView> = view.steps.iter().filter(|step| step.outcome.is_none() || waits(step)).collect();
        let mut lines: Vec<String> = open
            .iter()
            .take(MOST_LIVE)
            .map(|step| {
                if step.outcome.is_some() {
                    return terminal::step_line(step, None, style);
                }
                // A step with open children only frames them.
                let parent = open.iter().any(|other| is_below(&other.path, &step.path));
                let mark = if parent { "▸" } else { SPINNER[self.frame % SPINNER.len()] };
                let since = step.started_at.map(|at| now.duration_since(at)).and_then(|d| Duration::try_from(d).ok());
                let doing = self.doing(view, step, parent);
                terminal::step_line(step, Some(Live { mark, elapsed: since.unwrap_or_default(), doing: &doing }), style)
            })
            .collect();
        lines.extend(self.preparing(view, open.is_empty(), now, style));
        if open.len() > MOST_LIVE {
            lines.push(format!("      … and {} more", open.len() - MOST_LIVE));
        }
        self.wipe();
        self.live_lines = lines.len();
        for line in lines {
            out.push_str(&line);
            out.push('\n');
        }
        write(&out);
    }

    /// Between steps a run on code looks that up and makes its environment, which can take minutes the first time.
    fn preparing(&self, view: &RunView, idle: bool, now: Timestamp, style: Style) -> Option<String> {
        let ended = view.steps.iter().filter_map(|step| step.finished_at).max();
        let since = now.duration_since(ended.unwrap_or(view.start.started_at));
        let elapsed = Duration::try_from(since).unwrap_or_default();
        (idle && view.outcome.is_none() && self.sandbox.is_some() && elapsed > SHORT).then(|| {
            let step = StepView { path: "preparing".into(), ..StepView::default() };
            let mark = SPINNER[self.frame % SPINNER.len()];
            terminal::step_line(&step, Some(Live { mark, elapsed, doing: "the code and its environment" }), style)
        })
    }

    /// Takes the live lines off the terminal.
    fn wipe(&mut self) {
        if self.live_lines > 0 {
            write(&format!("\u{1b}[{}A\u{1b}[J", self.live_lines));
            self.live_lines = 0;
        }
    }

    fn tell(&mut self, view: &RunView) {
        if !self.headed {
            self.headed = true;
            let models = self.models(view);
            // No terminal, no width.
            let style = Style { width: usize::from(u16::MAX), ..Style::PLAIN };
            self.session.ui.say(terminal::header(view, &models, self.sandbox.as_deref(), style));
        }
        // What has ended was there before what has begun since.
        for step in self.finished(view, |_| false) {
            self.session.ui.say(terminal::change_line(view, &step));
        }
        for step in view.steps.iter().filter(|step| step.outcome.is_none()) {
            if self.begun.insert(step.path.clone()) {
                self.session.ui.say(terminal::change_line(view, step));
            }
        }
    }

    /// Steps that have ended since the last look, without those that wait.
    fn finished(&mut self, view: &RunView, waits: impl Fn(&StepView) -> bool) -> Vec<StepView> {
        let ended = view.steps.iter().filter(|step| step.outcome.is_some() && !waits(step));
        let end = |step: &StepView| step.finished_at.map(|at| at.to_string()).unwrap_or_default();
        let mut found: Vec<StepView> =
            ended.filter(|step| self.printed.insert((step.path.clone(), end(step)))).cloned().collect();
        // In a log what ended first comes first, and what is below before what it belongs to.
        if !self.session.ui.live {
            found.sort_by_key(|step| (step.finished_at, std::cmp::Reverse(step.depth)));
        }
        found
    }
}

fn is_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.starts_with(['/', '[']))
}

fn write(text: &str) {
    let mut err = std::io::stderr().lock();
    // A terminal that has gone away shows nothing; the run goes on.
    drop(err.write_all(text.as_bytes()).and_then(|()| err.flush()));
}

/// What a preview would not have done, said once after a run that was asked to be live.
pub fn lowered(asked: Option<Effects>, view: &RunView) -> Option<String> {
    (asked == Some(Effects::Live) && view.start.effects == Effects::Preview)
        .then(|| "ran as a preview: pipeline and configuration must both say `effects: live`".to_owned())
}
