//! The toolbox by itself, for tests and for images that need nothing else.

fn main() -> std::process::ExitCode {
    fairway_toolbox::main(std::env::args_os())
}
