//! Files of a volume group as programs and people use them: `aquifer fs`, and mounts of two nodes.

use super::rig::{Cluster, LIMIT, Place, Process, command, ends, program, run};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::mpsc;
use std::time::Instant;

/// `aquifer fs ...` on the device of a cluster.
fn aquifer_fs(cluster: &Cluster, arguments: &[&str]) -> Output {
    let device = cluster.device();
    let mut all = vec!["fs"];
    all.extend_from_slice(arguments);
    all.extend_from_slice(&["--device", &device]);
    run(&all)
}

fn told(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Everything that the commands do, in one life of a cluster or without one.
fn use_files(cluster: &Cluster, below: &str) {
    let at = |name: &str| format!("{below}/{name}");
    let outside = cluster.place.file("outside");
    let bytes: Vec<u8> = (0..300_007u32).map(|index| (index * 7 / 3) as u8).collect();
    fs::write(&outside, &bytes).unwrap();
    let ok = |arguments: &[&str]| told(&aquifer_fs(cluster, arguments));
    ok(&["mkdir", "-p", &at("d/e")]);
    let copied = ok(&["cp", "-o", "json", &outside, &format!("e2e:{}", at("d/f"))]);
    assert!(copied.contains("\"bytes\":300007"), "{copied}");
    ok(&["ln", "-s", "d/f", &at("link")]);
    ok(&["ln", &at("d/f"), &at("second")]);
    assert_eq!(ok(&["readlink", &at("link")]).trim(), "d/f");
    ok(&["truncate", "--size", "100", &at("link")]);
    ok(&["truncate", "--size", "4096", &at("second")]);
    let cat = aquifer_fs(cluster, &["cat", &at("d/f")]);
    assert_eq!(&cat.stdout[..100], &bytes[..100]);
    assert!(cat.stdout.len() == 4096 && cat.stdout[100..].iter().all(|byte| *byte == 0));
    ok(&["touch", &at("d/empty")]);
    ok(&["mv", &at("d/empty"), &at("d/f")]);
    let stat: serde_json::Value = serde_json::from_str(&ok(&["stat", "-o", "json", &at("second")])).unwrap();
    assert_eq!(
        (stat["links"].as_u64(), stat["size"].as_u64()),
        (Some(1), Some(4096))
    );
    let found = ok(&["find", below, "--type", "f"]);
    assert_eq!(found.lines().collect::<Vec<_>>(), [at("second"), at("d/f")]);
    assert!(ok(&["du", below]).contains(below));
    let out = cluster.place.file("out");
    ok(&["cp", &format!("e2e:{}", at("second")), &out]);
    assert_eq!(fs::read(&out).unwrap(), cat.stdout);
    fs::remove_file(out).unwrap();
    ends(&aquifer_fs(cluster, &["rmdir", &at("d")]), 1, &["not empty"]);
    ends(&aquifer_fs(cluster, &["cat", &at("gone")]), 1, &["no such file"]);
    ok(&["rm", "-r", below]);
    assert!(!ok(&["find", "/"]).contains(below));
}

#[test]
fn files_are_used_with_the_cluster_down_and_up() {
    let mut cluster = Cluster::new("files");
    use_files(&cluster, "/down");
    cluster.start(&[1, 2]);
    use_files(&cluster, "/up");
    let protected = aquifer_fs(&cluster, &["rm", "/redo/1"]);
    ends(&protected, 6, &["belongs to the engine"]);
    // A node that lives and cannot be reached: beside it nobody may become a member unasked.
    for id in [1, 2] {
        fs::remove_file(cluster.place.file(&format!("{id}.admin"))).unwrap();
    }
    ends(&aquifer_fs(&cluster, &["ls", "/"]), 6, &["none answers"]);
    cluster.kill(&[1, 2]);
}

#[test]
fn what_is_removed_goes_back_to_the_file_system_of_the_device() {
    const BYTES: u64 = 64 << 20;
    let mut cluster = Cluster::of("discard", 1);
    let outside = cluster.place.file("outside");
    fs::write(&outside, vec![7; BYTES as usize]).unwrap();
    let used = |cluster: &Cluster| fs::metadata(cluster.device()).unwrap().blocks() * 512;
    told(&aquifer_fs(&cluster, &["cp", &outside, "e2e:/large"]));
    let before = used(&cluster);
    told(&aquifer_fs(&cluster, &["rm", "/large"]));
    let begun = Instant::now();
    while used(&cluster) > before - BYTES * 9 / 10 {
        assert!(
            begun.elapsed() < LIMIT,
            "{} of {before} bytes are used",
            used(&cluster)
        );
        std::thread::yield_now();
    }
    cluster.stop_all();
}

#[test]
fn whoever_makes_a_group_owns_its_root() {
    use std::os::unix::process::CommandExt;
    let place = Place::new("owner");
    let device = place.file("device");
    // As somebody else than this test runs as, where that can be chosen.
    let is_root = rustix::process::geteuid().is_root();
    let user = if is_root {
        65534
    } else {
        rustix::process::geteuid().as_raw()
    };
    let mut init = command(&["cluster", "init", "--vg", "e2e", "--size", "1G", "--yes", &device]);
    if is_root {
        std::os::unix::fs::chown(&place.0, Some(user), Some(user)).unwrap();
        init.uid(user).gid(user);
    }
    told(&init.output().unwrap());
    let stat = told(&run(&["fs", "stat", "/", "--device", &device, "-o", "json"]));
    let stat: serde_json::Value = serde_json::from_str(&stat).unwrap();
    assert_eq!(stat["uid"].as_u64(), Some(u64::from(user)), "{stat}");
}

/// A mount of a cluster's device; unmounted when it goes.
struct Mount {
    directory: PathBuf,
    process: Process,
}

impl Mount {
    fn new(cluster: &Cluster, id: u8) -> Self {
        let directory = cluster.place.0.join(format!("mount{id}"));
        fs::create_dir_all(&directory).unwrap();
        let file = |kind: &str| cluster.place.file(&format!("m{id}.{kind}"));
        let shown = directory.to_str().unwrap();
        let mut mount = command(&["fs", "mount", "e2e", shown, "--id", &id.to_string()]);
        mount.args([
            "--device",
            &cluster.device(),
            "--admin",
            &file("admin"),
            "--log",
            &file("log"),
        ]);
        let mut child = mount.stdout(Stdio::piped()).spawn().unwrap();
        let output = child.stdout.take().unwrap();
        let process = Process(child);
        let (said, line) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(output).read_line(&mut line);
            let _ = said.send(line);
        });
        let line = line.recv_timeout(LIMIT).unwrap();
        assert!(
            line.contains("ready"),
            "mount {id}: {line:?}, see {}",
            file("log")
        );
        Self { directory, process }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = self.process.0.kill();
        let _ = self.process.0.wait();
        let (program, option) = if rustix::process::geteuid().is_root() {
            ("umount", "-l")
        } else {
            ("fusermount3", "-uz")
        };
        let _ = std::process::Command::new(program)
            .arg(option)
            .arg(&self.directory)
            .status();
    }
}

/// Whether this machine mounts; says loudly when not.
fn can_mount() -> bool {
    let is_open = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .is_ok();
    let can = is_open && (rustix::process::geteuid().is_root() || program("fusermount3").is_some());
    if !can {
        eprintln!("NOT TESTED: mounting needs /dev/fuse, and root or fusermount3");
    }
    can
}

#[test]
fn a_mount_is_a_posix_file_system() {
    if !can_mount() {
        return;
    }
    let cluster = Cluster::new("mount");
    let mount = Mount::new(&cluster, 1);
    let path = mount.at("f");
    fs::write(&path, b"hello world").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::hard_link(&path, mount.at("g")).unwrap();
    symlink("g", mount.at("l")).unwrap();
    let found = fs::metadata(mount.at("l")).unwrap();
    assert_eq!(
        (found.nlink(), found.mode() & 0o7777, found.len()),
        (2, 0o600, 11)
    );
    // Removed while it is open: still there for who has it open.
    let mut open = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    fs::remove_file(mount.at("g")).unwrap();
    open.write_all_at(b"HELLO", 100_000).unwrap();
    open.set_len(100_003).unwrap();
    let mut all = Vec::new();
    open.read_to_end(&mut all).unwrap();
    assert_eq!(
        (&all[..11], &all[100_000..], all.len()),
        (&b"hello world"[..], &b"HEL"[..], 100_003)
    );
    assert!(all[11..100_000].iter().all(|byte| *byte == 0));
    open.sync_all().unwrap();
    drop(open);
    rename_and_list(&mount);
    // A mapping is written back.
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(mount.at("mapped"))
        .unwrap();
    file.set_len(8192).unwrap();
    let length = std::num::NonZeroUsize::new(8192).unwrap();
    write_mapped(&file, length.get());
    let mut byte = [0];
    let other = File::open(mount.at("mapped")).unwrap();
    other.read_exact_at(&mut byte, 5000).unwrap();
    assert_eq!(byte, [7]);
}

/// Writes one byte of a file through a shared mapping.
fn write_mapped(file: &File, length: usize) {
    use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};
    // SAFETY: a new mapping of a file of `length` bytes, used and unmapped here.
    unsafe {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let memory = mmap(
            std::ptr::null_mut(),
            length,
            protection,
            MapFlags::SHARED,
            file,
            0,
        )
        .unwrap();
        memory.cast::<u8>().add(5000).write(7);
        msync(memory, length, MsyncFlags::SYNC).unwrap();
        munmap(memory, length).unwrap();
    }
}

fn rename_and_list(mount: &Mount) {
    fs::create_dir(mount.at("d")).unwrap();
    for number in 0..50 {
        fs::write(mount.at(&format!("d/{number}")), number.to_string()).unwrap();
    }
    fs::rename(mount.at("d/49"), mount.at("d/0")).unwrap();
    assert_eq!(fs::read(mount.at("d/0")).unwrap(), b"49");
    assert_eq!(fs::read_dir(mount.at("d")).unwrap().count(), 49);
    let refused = fs::remove_dir(mount.at("d")).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::DirectoryNotEmpty);
    fs::rename(mount.at("d"), mount.at("e")).unwrap();
    fs::remove_dir_all(mount.at("e")).unwrap();
}

#[test]
fn what_one_mount_closed_another_opens() {
    if !can_mount() {
        return;
    }
    let cluster = Cluster::new("mounts");
    let (one, two) = (Mount::new(&cluster, 1), Mount::new(&cluster, 2));
    for round in 0..30u32 {
        let (writer, reader) = if round % 2 == 0 {
            (&one, &two)
        } else {
            (&two, &one)
        };
        let text = format!("round {round} ").repeat(1 + round as usize * 50);
        fs::write(writer.at("shared"), &text).unwrap();
        assert_eq!(
            fs::metadata(reader.at("shared")).unwrap().len(),
            text.len() as u64
        );
        assert_eq!(
            fs::read_to_string(reader.at("shared")).unwrap(),
            text,
            "round {round}"
        );
        // Changed in place, of the same size: pages that the reader has are of the past.
        let mut file = OpenOptions::new().write(true).open(reader.at("shared")).unwrap();
        file.seek(SeekFrom::Start(3)).unwrap();
        file.write_all(b"CHANGED").unwrap();
        drop(file);
        assert_eq!(&fs::read(writer.at("shared")).unwrap()[3..10], b"CHANGED");
    }
    // Who has it open may have size and times of a second ago, but never on the way of a path.
    let held = File::open(two.at("shared")).unwrap();
    for size in [70_000, 10, 8_000] {
        held.metadata().unwrap();
        fs::write(one.at("shared"), vec![b'x'; size]).unwrap();
        assert_eq!(fs::metadata(two.at("shared")).unwrap().len(), size as u64);
        assert_eq!(
            held.metadata().unwrap().len(),
            size as u64,
            "the path was looked up"
        );
        fs::write(one.at("shared"), vec![b'y'; size + 1]).unwrap();
        let written = std::time::Instant::now();
        while held.metadata().unwrap().len() != size as u64 + 1 {
            assert!(
                written.elapsed().as_secs() < 10,
                "it is a second behind, not more"
            );
        }
    }
    drop(held);
    fs::write(one.at("shared"), b"rouCHANGED").unwrap();
    // Open on one node, removed on the other.
    let held = File::open(two.at("shared")).unwrap();
    fs::remove_file(one.at("shared")).unwrap();
    assert!(!two.at("shared").exists());
    let mut start = [0; 5];
    held.read_exact_at(&mut start, 0).unwrap();
    assert_eq!(&start, b"rouCH");
    // The first mount dies without a word: the second goes on, and a new one shows everything.
    fs::write(one.at("last"), b"synced").unwrap();
    drop(one);
    assert_eq!(fs::read(two.at("last")).unwrap(), b"synced");
    let again = Mount::new(&cluster, 1);
    assert_eq!(fs::read(again.at("last")).unwrap(), b"synced");
}
