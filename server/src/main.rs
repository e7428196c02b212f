fn main() -> std::process::ExitCode {
    hilda_server::cli::main()
}
