//! `node start`: flags over environment over file, checked before anything is touched.

use super::detach;
use crate::config::FileConfig;
use crate::daemon::{self, NodeSettings};
use crate::failure::{Failure, Outcome};
use crate::units::{Address, Switch, absolute, node_id, parse_size};
use aquifer_dss_proto::PageSize;
use aquifer_member::{LEAST_PAGES, default_admin};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

/// Memory for pages when nothing is said.
const DEFAULT_BUFFER: &str = "256M";

/// [`LEAST_PAGES`] of the smallest size; which the group has is known when its device is open.
const LEAST_BUFFER: u64 = (LEAST_PAGES * PageSize::LEAST.bytes()) as u64;

/// Options of `node start`.
#[derive(Clone, Debug, clap::Args)]
pub struct StartOptions {
    /// Number of this node, 1 to 64.
    #[arg(long, env = "AQUIFER_ID", value_name = "N")]
    id: Option<u8>,
    /// Device of the volume group; again for each further one that is elsewhere on this machine than the catalogue says.
    #[arg(long, env = "AQUIFER_DEVICE", value_name = "DEV")]
    device: Vec<PathBuf>,
    /// Where SQL clients connect; port 0 takes a free one.
    #[arg(long, env = "AQUIFER_SQL", value_name = "ADDR")]
    sql: Option<String>,
    /// Where the other nodes connect: HOST:PORT or unix:PATH.
    #[arg(long, env = "AQUIFER_PEER", value_name = "ADDR")]
    peer: Option<String>,
    /// Whether messages go through memory to nodes of the same machine [default: on].
    #[arg(long, env = "AQUIFER_PEER_MEMORY", value_name = "WHETHER")]
    peer_memory: Option<Switch>,
    /// Socket for admin commands, in a directory that only this user can enter.
    #[arg(long, env = "AQUIFER_ADMIN", value_name = "PATH")]
    admin: Option<String>,
    /// TOML file with the keys id, device, sql, peer, peer_memory, admin, buffer, log, auth.
    #[arg(long, env = "AQUIFER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// How SQL clients prove who they are: `trust`, on loopback only.
    #[arg(long, env = "AQUIFER_AUTH", value_name = "METHOD")]
    auth: Option<String>,
    /// Memory for pages [default: 256M].
    #[arg(long, env = "AQUIFER_BUFFER", value_name = "SIZE")]
    buffer: Option<String>,
    /// This side of volume 0, 0 or 1, is lost for good, and no node runs: what the other side has is believed. What only the lost one had is lost.
    #[arg(long, value_name = "SIDE", value_parser = clap::value_parser!(u8).range(0..2))]
    lost_side: Option<u8>,
    /// Leave the terminal when the node is ready.
    #[arg(long)]
    detach: bool,
    /// Append the log to this file instead of stderr.
    #[arg(long, env = "AQUIFER_LOG", value_name = "FILE")]
    log: Option<PathBuf>,
    /// Begin a session of its own: what --detach starts.
    #[arg(long, hide = true)]
    session: bool,
    /// Die with the process of this id, which started this one.
    #[arg(long, hide = true, value_name = "PID")]
    with_parent: Option<u32>,
}

/// Runs it.
pub fn run(options: StartOptions) -> Outcome {
    let settings = settle(&options)?;
    if options.detach {
        return detach::run(&settings);
    }
    if options.session {
        rustix::process::setsid().map_err(|e| Failure::failed(format!("cannot begin a session: {e}")))?;
    }
    if let Some(parent) = options.with_parent {
        die_with(parent)?;
    }
    daemon::logging(settings.log.as_deref())?;
    crate::block_on(daemon::run(settings))
}

/// The kernel kills this process when its parent ends, also when the parent is killed.
fn die_with(parent: u32) -> Result<(), Failure> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(|e| Failure::failed(format!("cannot follow the parent process: {e}")))?;
    // The parent may have ended before the line above; then the signal will never come.
    let actual = rustix::process::getppid().map(|p| p.as_raw_nonzero().get());
    if actual != i32::try_from(parent).ok() {
        return Err(Failure::failed("the process that started this node is gone"));
    }
    Ok(())
}

fn settle(options: &StartOptions) -> Result<NodeSettings, Failure> {
    let file = FileConfig::read(options.config.as_deref())?;
    let missing = |what: &str| {
        Failure::usage(format!(
            "--{what} is missing; give it as a flag, as AQUIFER_{}, or in --config",
            what.to_uppercase()
        ))
    };
    let id = node_id(options.id.or(file.id).ok_or_else(|| missing("id"))?)?;
    let named = if options.device.is_empty() {
        &file.device
    } else {
        &options.device
    };
    let devices = named
        .iter()
        .map(|device| absolute(device))
        .collect::<Result<Vec<_>, _>>()?;
    let first = devices.first().ok_or_else(|| missing("device"))?;
    let sql = options.sql.clone().or(file.sql).ok_or_else(|| missing("sql"))?;
    let peer = options
        .peer
        .clone()
        .or(file.peer)
        .ok_or_else(|| missing("peer"))?;
    let auth = options
        .auth
        .clone()
        .or(file.auth)
        .unwrap_or_else(|| "trust".into());
    if auth != "trust" {
        return Err(Failure::usage(format!(
            "--auth {auth} is not known; this version has `trust`, on loopback only"
        )));
    }
    let buffer = options
        .buffer
        .clone()
        .or(file.buffer)
        .unwrap_or_else(|| DEFAULT_BUFFER.into());
    let buffer = parse_size(&buffer).map_err(Failure::usage)?;
    if buffer < LEAST_BUFFER {
        return Err(Failure::usage(format!(
            "--buffer {buffer} is too little: at least 256K, which is {LEAST_PAGES} pages of {}",
            PageSize::LEAST
        )));
    }
    let admin = admin_path(options.admin.clone().or(file.admin), id.get(), first)?;
    Ok(NodeSettings {
        id,
        devices,
        sql: Some(loopback("--sql", &sql, "SQL without passwords is served")?),
        mount: None,
        peer: peer_address(&peer)?,
        peer_memory: options.peer_memory.or(file.peer_memory) != Some(Switch::Off),
        admin,
        buffer,
        log: options.log.clone().or(file.log),
        lost_side: options.lost_side,
    })
}

/// Where the admin socket is: what was told, or a place of its own.
fn admin_path(told: Option<String>, id: u8, device: &Path) -> Result<PathBuf, Failure> {
    let admin = match told {
        Some(text) => match Address::parse(&text) {
            Ok(Address::Unix(path)) => path,
            _ if !text.contains(':') => PathBuf::from(text),
            _ => {
                return Err(Failure::usage(format!(
                    "--admin {text}: remote administration needs TLS, which this version has not; give a path"
                )));
            }
        },
        None => default_admin(id, device),
    };
    std::path::absolute(&admin).map_err(|e| Failure::usage(format!("--admin {}: {e}", admin.display())))
}

/// Where peers connect, from what was told.
pub fn peer_address(text: &str) -> Result<Address, Failure> {
    match Address::parse(text).map_err(|e| Failure::usage(format!("--peer: {e}")))? {
        Address::Tcp(text) => loopback("--peer", &text, "nodes talk in the clear and fence each other")
            .map(|a| Address::Tcp(a.to_string())),
        Address::Unix(path) => std::path::absolute(&path)
            .map(Address::Unix)
            .map_err(|e| Failure::usage(format!("--peer: {e}"))),
    }
}

/// Resolves `HOST:PORT` and refuses what other machines could reach.
fn loopback(flag: &str, text: &str, what: &str) -> Result<SocketAddr, Failure> {
    if !matches!(Address::parse(text), Ok(Address::Tcp(_))) {
        return Err(Failure::usage(format!(
            "{flag} {text} is not an address; write HOST:PORT such as 127.0.0.1:5433"
        )));
    }
    let mut found = text
        .to_socket_addrs()
        .map_err(|e| Failure::usage(format!("{flag} {text}: {e}")))?;
    let address = found
        .next()
        .ok_or_else(|| Failure::usage(format!("{flag} {text} has no address")))?;
    if !address.ip().is_loopback() {
        return Err(Failure::refused(format!(
            "{flag} {text}: {what} on loopback only in this version; use 127.0.0.1:PORT"
        )));
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: StartOptions,
    }

    fn settle_line(line: &str) -> Result<NodeSettings, Failure> {
        settle(&Line::parse_from(std::iter::once("start").chain(line.split_whitespace())).options)
    }

    #[test]
    fn a_complete_line_settles() {
        let settings =
            settle_line("--id 2 --device /tmp/d --sql 127.0.0.1:0 --peer unix:/tmp/p --buffer 8M").unwrap();
        assert_eq!(settings.id.get(), 2);
        assert_eq!(settings.buffer, 8 << 20);
        assert_eq!(settings.peer, Address::Unix("/tmp/p".into()));
        assert!(settings.peer_memory, "on when nothing is said");
    }

    #[test]
    fn mistakes_have_their_exit_codes() {
        let exit = |line| settle_line(line).unwrap_err().exit;
        assert_eq!(
            exit("--id 65 --device /tmp/d --sql 127.0.0.1:0 --peer unix:/tmp/p"),
            Exit::Usage
        );
        assert_eq!(
            exit("--id 1 --device /tmp/d --sql 5433 --peer unix:/tmp/p"),
            Exit::Usage
        );
        assert_eq!(
            exit("--id 1 --device /tmp/d --sql 0.0.0.0:5433 --peer unix:/tmp/p"),
            Exit::Refused
        );
        assert_eq!(
            exit("--id 1 --device /tmp/d --sql 127.0.0.1:0 --peer 0.0.0.0:1"),
            Exit::Refused
        );
        assert_eq!(exit("--id 1 --device /tmp/d --sql 127.0.0.1:0"), Exit::Usage);
        let line = "--id 1 --device /tmp/d --sql 127.0.0.1:0 --peer unix:/tmp/p --buffer";
        assert_eq!(exit(&format!("{line} 255K")), Exit::Usage);
        let settings = settle_line(&format!("{line} 256K --peer-memory off")).unwrap();
        assert!(!settings.peer_memory);
    }
}
