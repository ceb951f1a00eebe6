//! The worker: requests from standard input, decisions to standard output and to the outbox.

use std::error::Error;
use std::io::BufRead;
use std::process::ExitCode;

use quiethours::{plan, Outbox, Time, Window};

fn main() -> ExitCode {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("usage: quiethours OUTBOX < requests");
        return ExitCode::from(2);
    };
    match serve(&Outbox::new(path)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quiethours: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(outbox: &Outbox) -> Result<(), Box<dyn Error>> {
    let worker = format!("worker {} of {}", std::process::id(), env!("CARGO_PKG_VERSION"));
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        if !line.trim().is_empty() {
            let decided = answer(&line)?;
            outbox.append(&worker, &decided)?;
            println!("{decided}");
        }
    }
    Ok(())
}

/// `mia 13:00-14:30 13:15` → `mia hold 75`
fn answer(request: &str) -> Result<String, Box<dyn Error>> {
    let words: Vec<&str> = request.split_whitespace().collect();
    let [user, quiet, at] = words[..] else {
        return Err(format!("`{request}` is no request: USER HH:MM-HH:MM HH:MM").into());
    };
    let (quiet, at): (Window, Time) = (quiet.parse()?, at.parse()?);
    Ok(format!("{user} {}", plan(quiet, at)))
}
