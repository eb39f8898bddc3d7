//! C programs that use the library: every job, two threads, a kill, mistakes, and the example of the documentation.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use aquifer_dss::device::{OpenMode, create_sparse, open_device};
use aquifer_dss::group::{GroupOptions, VolumeGroup};
use aquifer_dss::seam::BlockDevice;
use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// No single step takes so long, on any machine.
const LIMIT: Duration = Duration::from_secs(120);
/// Bytes of the device.
const DEVICE_BYTES: u64 = 1 << 30;

/// A directory with a device, for one test; kept when the test fails.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("aq-capi-{}-{name}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        let place = Self(path);
        let device = place.file("device");
        create_sparse(Path::new(&device), DEVICE_BYTES).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let device = open_device(Path::new(&device), OpenMode::Best).unwrap();
            let options = GroupOptions::default().sized_for(device.geometry().size);
            VolumeGroup::format(&*device, &options).await.unwrap();
        });
        place
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// Compiles a program of this directory against the header and the library.
    fn compile(&self, source: &str) -> String {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let library = library();
        let program = self.file("program");
        let mut cc = Command::new("cc");
        cc.args([
            "-std=c11", "-Wall", "-Wextra", "-Werror", "-pthread", "-g", "-o", &program,
        ])
        .arg(package.join("tests").join(source))
        .arg("-I")
        .arg(package)
        .arg("-L")
        .arg(&library)
        .args(["-laquifer", &format!("-Wl,-rpath,{}", library.display())]);
        let compiled = cc
            .output()
            .expect("a C compiler is needed for this test: install gcc or clang as `cc`");
        succeeded(&compiled);
        program
    }

    /// `program what DEVICE NODE DIRECTORY more...`.
    fn command(&self, program: &str, what: &str, node: u8, more: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args([
            what,
            &self.file("device"),
            &node.to_string(),
            self.0.to_str().unwrap(),
        ]);
        command.args(more).stdin(Stdio::null());
        command
    }

    /// Node 1, which writes without end, and what it says.
    fn writer(&self, program: &str) -> (Child, Lines<BufReader<ChildStdout>>) {
        let mut command = self.command(program, "write", 1, &[]);
        let mut writer = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        (writer, lines)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("device and program are kept in {}", self.0.display());
        } else {
            let _gone = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// Where cargo put the library that this test belongs to.
fn library() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let directory = this.parent().unwrap().to_owned();
    assert!(
        directory.join("libaquifer.so").is_file(),
        "libaquifer.so is not in {}",
        directory.display()
    );
    directory
}

fn succeeded(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn every_job_is_done_from_c() {
    let place = Place::new("all");
    let program = place.compile("jobs.c");
    let done = place.command(&program, "all", 1, &[]).output().unwrap();
    assert_eq!(succeeded(&done), "done\n");
}

#[test]
fn a_process_joins_again_and_leaves_nothing_behind() {
    let place = Place::new("again");
    let program = place.compile("jobs.c");
    let done = place.command(&program, "again", 1, &["20"]).output().unwrap();
    assert_eq!(succeeded(&done), "done\n");
}

/// Beside another node, so that there are connections and memory in common to end.
#[test]
fn a_process_joins_again_beside_another_node() {
    let place = Place::new("again-two");
    let program = place.compile("jobs.c");
    let (mut writer, mut lines) = place.writer(&program);
    lines.next().expect("the writer serves").unwrap();
    let drained = std::thread::spawn(move || lines.map_while(Result::ok).count());
    let done = place.command(&program, "again", 2, &["20"]).output().unwrap();
    writer.kill().unwrap();
    writer.wait().unwrap();
    assert!(drained.join().unwrap() > 0, "the other node goes on");
    assert_eq!(succeeded(&done), "done\n");
}

#[test]
fn mistakes_are_errors() {
    let place = Place::new("errors");
    let program = place.compile("jobs.c");
    assert_eq!(
        succeeded(&Command::new(&program).arg("errors").output().unwrap()),
        "done\n"
    );
    let inside = place.command(&program, "errors-inside", 1, &[]).output().unwrap();
    assert_eq!(succeeded(&inside), "done\n");
}

#[test]
fn mistakes_touch_no_memory() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        eprintln!("SKIPPED: valgrind is not there");
        return;
    }
    let place = Place::new("valgrind");
    let program = place.compile("jobs.c");
    let checked = Command::new("valgrind")
        .args(["--quiet", "--error-exitcode=99", &program, "errors"])
        .output()
        .unwrap();
    assert_eq!(succeeded(&checked), "done\n");
}

#[test]
fn what_a_killed_program_had_synced_another_node_reads() {
    let place = Place::new("kill");
    let program = place.compile("jobs.c");
    let (mut writer, lines) = place.writer(&program);
    let (told, synced) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let _late = told.send(line.parse::<u64>().unwrap());
        }
    });
    let wait_for = |least: u64| {
        loop {
            let count = synced.recv_timeout(LIMIT).expect("the writer goes on");
            if count >= least {
                return count;
            }
        }
    };
    let read = |count: u64| {
        let done = place.command(&program, "read", 2, &[&count.to_string()]).output();
        assert_eq!(succeeded(&done.unwrap()), "done\n");
    };
    read(wait_for(20)); // Beside the writer, which goes on.
    wait_for(100);
    writer.kill().unwrap();
    writer.wait().unwrap();
    reader.join().unwrap();
    // What was told before the kill arrived counts too.
    read(synced.try_iter().last().unwrap_or(100));
}

#[test]
fn the_example_of_the_documentation_does_what_it_says() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = std::fs::read_to_string(package.join("tests/example.c")).unwrap();
    let page = std::fs::read_to_string(package.join("../../docs/library.md")).unwrap();
    assert!(
        page.contains(&format!("```c\n{source}```")),
        "docs/library.md has another text than tests/example.c"
    );
    let place = Place::new("example");
    let program = place.compile("example.c");
    let mut command = Command::new(&program);
    command.arg(place.file("device")).env("XDG_RUNTIME_DIR", &place.0);
    let said = succeeded(&command.output().unwrap());
    assert!(
        page.contains(&format!("```\n{said}```")),
        "docs/library.md tells of another output than this:\n{said}"
    );
}
