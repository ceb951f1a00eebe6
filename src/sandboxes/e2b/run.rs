//! One process in a sandbox, to its end, and what it left in files: what was seen, with everything capped.

use std::time::{Duration, Instant};

use crate::base::hash::{Hash, Hasher};
use crate::clients::e2b::wire::{ProcessConfig, ProcessEnd, StartProcess};
use crate::clients::e2b::{Envd, Error, Event};
use crate::isolation::{Capture, Captured};
use crate::ports::sandbox::{Progress, Watcher};

use super::scripts::{PATH, own, own_words};

/// What is kept of each output of a command.
pub(super) const MOST_OUTPUT: u64 = 512 << 10;
/// What one of our own scripts may print: a line for each file of a large repository.
const MOST_OWN: u64 = 256 << 20;
/// How long one of our own scripts may take.
const OWN_WALL: Duration = Duration::from_secs(600);

/// How a process ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub exit: Option<i32>,
    pub signal: Option<i32>,
    /// The limit that ended it.
    pub stopped: Option<String>,
    pub stdout: Captured,
    pub stderr: Captured,
    pub duration: Duration,
}

/// Runs `/bin/sh` with these words to its end. Dropped, the process ends.
///
/// Errors: not for a process that fails or takes too long.
pub(super) async fn shell(
    envd: &Envd,
    words: Vec<String>,
    variables: &[(&str, &str)],
    wall: Duration,
    most: u64,
    watcher: &Watcher,
) -> Result<Ended, Error> {
    let envs = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let process = ProcessConfig { cmd: "/bin/sh".into(), args: words, envs, cwd: None };
    let begun = Instant::now();
    let mut running =
        envd.start(&StartProcess { process, stdin: Some(false), ..StartProcess::default() }, Some(wall)).await?;
    let (mut stdout, mut stderr) = (Capture::new(most), Capture::new(most));
    let mut end = None;
    let mut late = false;
    loop {
        match running.next().await {
            Ok(Some(Event::Stdout(bytes) | Event::Pty(bytes))) => {
                stdout.push(&bytes);
                tell(watcher, || Progress::Output(bytes)).await;
            }
            Ok(Some(Event::Stderr(bytes))) => {
                stderr.push(&bytes);
                tell(watcher, || Progress::Output(bytes)).await;
            }
            Ok(Some(Event::End(ended))) => end = Some(ended),
            Ok(None) => break,
            Err(Error::Deadline { .. }) => {
                late = true;
                break;
            }
            Err(error) => return Err(error),
        }
    }
    let duration = begun.elapsed();
    let how = how(end.filter(|_| !late).as_ref());
    let (exit, signal, stopped) = if late { (None, None, Some("wall".to_owned())) } else { how };
    Ok(Ended { exit, signal, stopped, stdout: stdout.finish(), stderr: stderr.finish(), duration })
}

/// Runs one of our own scripts and answers with what it printed, whole.
pub(super) async fn own_script(envd: &Envd, script: &str) -> Result<Vec<u8>, Error> {
    let ended = shell(envd, own_words(script), &[("PATH", PATH)], OWN_WALL, MOST_OWN, &None).await?;
    if ended.exit != Some(0) {
        let why = ended.stopped.unwrap_or_else(|| ended.stderr.text().trim().to_owned());
        return Err(Error::Rejected {
            status: 500,
            message: format!("the code could not be put into the sandbox: {why}"),
        });
    }
    if ended.stdout.left_out_bytes() > 0 {
        return Err(Error::TooLarge { cap: usize::try_from(MOST_OWN).unwrap_or(usize::MAX) });
    }
    Ok([ended.stdout.head, ended.stdout.tail].concat())
}

pub(super) async fn tell(watcher: &Watcher, progress: impl FnOnce() -> Progress) {
    if let Some(watcher) = watcher {
        // Who has stopped watching misses nothing.
        drop(watcher.send(progress()).await);
    }
}

/// Exit code, signal, limit.
pub(super) fn how(end: Option<&ProcessEnd>) -> (Option<i32>, Option<i32>, Option<String>) {
    let Some(end) = end else { return (None, None, None) };
    let limit =
        end.error.as_deref().and_then(|error| error.strip_prefix("limit: ")).map(|limit| limit.trim().to_owned());
    // The signal is told as Go writes it, `signal: killed`, and a dump of core behind it.
    let named = end.status.strip_prefix("signal: ").map(|name| name.trim_end_matches(" (core dumped)"));
    let signal = named.and_then(number_of);
    let by_itself = end.exited || (named.is_none() && end.exit_code >= 0);
    (by_itself.then_some(end.exit_code), signal.filter(|_| !by_itself), limit)
}

/// The number of a signal from its name in Go.
fn number_of(name: &str) -> Option<i32> {
    const NAMES: [(&str, i32); 17] = [
        ("hangup", 1),
        ("interrupt", 2),
        ("quit", 3),
        ("illegal instruction", 4),
        ("trace/breakpoint trap", 5),
        ("aborted", 6),
        ("bus error", 7),
        ("floating point exception", 8),
        ("killed", 9),
        ("user defined signal 1", 10),
        ("segmentation fault", 11),
        ("user defined signal 2", 12),
        ("broken pipe", 13),
        ("alarm clock", 14),
        ("terminated", 15),
        ("CPU time limit exceeded", 24),
        ("file size limit exceeded", 25),
    ];
    let known = NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    known.or_else(|| name.strip_prefix("signal ")?.parse().ok())
}

/// What a command left in a file.
pub(super) struct Left {
    pub kept: Option<Vec<u8>>,
    /// There was more than is taken, so nothing was kept.
    pub left_out: bool,
    /// Of all of it; of nothing where there is no file.
    pub hash: Hash,
}

/// Reads a file of ours that a command may have made: no link is followed, nothing but a file is read, no more than `most` is kept.
pub(super) async fn left(envd: &Envd, name: &str, most: usize) -> Result<Left, Error> {
    let mut hasher = Hasher::default();
    let path = own(name);
    let is_file = match envd.stat(&path).await {
        Ok(entry) => entry.kind == "FILE_TYPE_FILE" && entry.symlink_target.is_none(),
        Err(Error::NotFound { .. } | Error::Rejected { .. }) => false,
        Err(error) => return Err(error),
    };
    let nothing = |hasher: Hasher| Left { kept: None, left_out: false, hash: hasher.finish() };
    if !is_file {
        return Ok(nothing(hasher));
    }
    let mut download = match envd.open(&path).await {
        Ok(download) => download,
        Err(Error::NotFound { .. } | Error::Rejected { .. }) => return Ok(nothing(hasher)),
        Err(error) => return Err(error),
    };
    let (mut kept, mut piece, mut left_out) = (Vec::new(), Vec::new(), false);
    while download.more(&mut piece).await? {
        hasher.update(&piece);
        left_out |= kept.len() + piece.len() > most;
        if left_out {
            kept.clear();
        } else {
            kept.extend_from_slice(&piece);
        }
        piece.clear();
    }
    Ok(Left { kept: (!left_out).then_some(kept), left_out, hash: hasher.finish() })
}

/// The end of a text, from the beginning of a line if one begins there; without what could move a cursor.
pub(super) fn tail(text: &str, most: usize) -> String {
    let plain: String = text.trim_end().chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect();
    if plain.len() <= most {
        return plain;
    }
    let from = (plain.len() - most..plain.len()).find(|at| plain.is_char_boundary(*at)).unwrap_or(plain.len());
    let end = plain.get(from..).unwrap_or_default();
    let end = end.split_once('\n').map_or(end, |(_, lines)| lines);
    format!("[…]\n{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_an_output_is_whole_lines_and_plain() {
        assert_eq!(tail("a\u{1b}[31mb\r\nc\n\n", 100), "a[31mb\nc");
        let long = "grün\n".repeat(2000);
        let end = tail(&long, 101);
        assert!(end.starts_with("[…]\ngrün\n") && end.len() < 120, "{end}");
    }

    #[test]
    fn an_end_is_an_exit_code_a_signal_or_a_limit() {
        let end = |exit_code, exited, status: &str, error: Option<&str>| {
            how(Some(&ProcessEnd { exit_code, exited, status: status.into(), error: error.map(str::to_owned) }))
        };
        assert_eq!(end(3, true, "exit status 3", Some("exit status 3")), (Some(3), None, None));
        assert_eq!(end(0, true, "exit status 0", None), (Some(0), None, None));
        assert_eq!(end(-1, false, "signal: killed", None), (None, Some(9), None));
        assert_eq!(end(-1, false, "signal: aborted (core dumped)", None), (None, Some(6), None));
        assert_eq!(end(-1, false, "signal: signal 40", None), (None, Some(40), None));
        assert_eq!(end(-1, false, "signal: killed", Some("limit: memory")), (None, Some(9), Some("memory".into())));
        assert_eq!(how(None), (None, None, None));
    }
}
