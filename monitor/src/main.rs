use std::process::ExitCode;

fn main() -> ExitCode {
    lastmile::cli::main()
}
