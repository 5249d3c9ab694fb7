//! `picket completions`: the script by which a shell completes commands and options.

use std::io::Write;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::{Cli, error::Error};

#[derive(Args, Debug)]
#[command(after_help = "\
To install for yourself:
  bash  picket completions bash > ~/.local/share/bash-completion/completions/picket
  zsh   picket completions zsh > ~/.zfunc/_picket     (with fpath+=~/.zfunc before compinit)
  fish  picket completions fish > ~/.config/fish/completions/picket.fish")]
pub(crate) struct CompletionsOptions {
    /// Shell that reads the script
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Writes the script to standard output.
pub(crate) fn run(options: &CompletionsOptions) -> Result<(), Error> {
    std::io::stdout().write_all(&generate_script(options.shell))?;
    Ok(())
}

/// The script for the commands that `--help` lists: clap_complete would offer hidden ones too.
fn generate_script(shell: Shell) -> Vec<u8> {
    let all = Cli::command();
    let visible: Vec<_> = all.get_subcommands().filter(|command| !command.is_hide_set()).cloned().collect();
    let mut program = clap::Command::new("picket").version(env!("CARGO_PKG_VERSION")).subcommands(visible);
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut program, "picket", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn each_shells_completion_script_contains_every_command() {
        for &shell in Shell::value_variants() {
            let script = String::from_utf8(generate_script(shell)).unwrap();
            for command in ["maintenance", "ledger", "completions"] {
                assert!(script.contains(command), "{shell}: {command}");
            }
            assert!(!script.contains("reference"), "{shell}: a hidden command is for builds");
        }
    }
}
