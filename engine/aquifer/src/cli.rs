//! The command tree. The names are a contract with operators and checks: add to them, do not rename.

use crate::failure::{Exit, Outcome};
use crate::{bench, cluster, demo, doctor, files, inspect, node, output, sql, volume};
use clap::{CommandFactory, Parser, Subcommand};

/// A shared-storage database: several nodes, one copy of the data on one device.
#[derive(Debug, Parser)]
#[command(
    name = "aquifer",
    version,
    about,
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The main job on one machine: nodes, load on the same rows, a kill, an audit, a verdict
    Demo(demo::DemoOptions),
    /// Make a cluster and look at it
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Run, stop and fence nodes
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Volume groups
    #[command(subcommand)]
    Vg(volume::VolumeCommand),
    /// Files of a volume group
    #[command(subcommand)]
    Fs(files::FileCommand),
    /// A small SQL client; psql works too
    Sql(sql::SqlOptions),
    /// Measure
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// What is on the device, decoded
    #[command(subcommand)]
    Inspect(inspect::InspectCommand),
    /// Look whether this machine and device can carry a node
    Doctor(doctor::DoctorOptions),
    /// Completion script of a shell, on stdout
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

impl Cli {
    /// Runs the command to its end. `node start` makes its own runtime because it may leave the terminal first.
    pub fn run(self) -> Outcome {
        match self.command {
            Command::Node(command) => command.run(),
            Command::Completions { shell } => completions(shell),
            command => crate::block_on(async {
                match command {
                    Command::Demo(options) => demo::run(options).await,
                    Command::Cluster(command) => command.run().await,
                    Command::Vg(command) => command.run().await,
                    Command::Fs(command) => command.run().await,
                    Command::Sql(options) => sql::run(options).await,
                    Command::Bench(command) => command.run().await,
                    Command::Inspect(command) => command.run().await,
                    Command::Doctor(options) => doctor::run(options).await,
                    Command::Node(_) | Command::Completions { .. } => unreachable!("handled above"),
                }
            }),
        }
    }
}

fn completions(shell: clap_complete::Shell) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "aquifer", &mut script);
    output::print_bytes(&script)?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn documented_commands_parse() {
        for line in [
            "demo --nodes 3 --seconds 20 --kill -o json",
            "cluster init --vg main --size 4G /tmp/x",
            "cluster status --admin /tmp/x --watch",
            "cluster history --device /tmp/x",
            "node start --id 1 --device /tmp/x --sql 127.0.0.1:1 --peer unix:/tmp/p --buffer 256M --detach",
            "node stop 1 --admin /tmp/x",
            "node fence 1 --device /tmp/x --confirm",
            "vg status --device /tmp/x -o json",
            "vg add /tmp/y --size 8G --admin /tmp/x --yes",
            "vg resize 1 --size 16G --admin /tmp/x",
            "vg drain 1 --undo --admin /tmp/x --dry-run",
            "vg remove 1 --device /tmp/x --yes",
            "vg replace 1 /tmp/z --device /tmp/x --yes -o json",
            "fs ls --device /tmp/x /",
            "sql -c 'select' --admin /tmp/x",
            "bench commit --dir /tmp/x --seconds 5 -o json",
            "inspect slots --device /tmp/x",
            "doctor --device /tmp/x",
            "completions bash",
        ] {
            let words = std::iter::once("aquifer").chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_ok(), "{line}");
        }
    }
}
