//! Arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    // A sandbox is built by this same binary, started anew: before anything else is done or any thread is started.
    if let Some(code) = nightcrew::isolation::run_if_asked(std::env::args_os()) {
        return code;
    }
    nightcrew::clients::install_tls();
    nightcrew::cli::main()
}
