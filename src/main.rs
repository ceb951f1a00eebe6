//! Arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    nightcrew::clients::install_tls();
    nightcrew::cli::main()
}
