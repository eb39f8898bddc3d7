//! The catalogue against a plain model of a POSIX tree: paths in one map, inodes in another.

use super::*;
use crate::defect::{Defect, fails_with};
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::ToString;
use proptest::prelude::*;

const UNIT: u64 = 4096;

#[derive(Clone, PartialEq, Debug)]
enum Kind {
    Directory,
    File(u64),
    Link(String),
}

/// Absolute path to inode; the root is "" and inode 0.
#[derive(Clone, Default, Debug)]
struct Model {
    paths: BTreeMap<String, usize>,
    inodes: Vec<Kind>,
}

/// An operation by paths, as a program would say it.
#[derive(Clone, Debug)]
enum Step {
    Make(String, Kind, bool),
    Link(String, String),
    Unlink(String),
    RemoveDirectory(String),
    Move(String, String, bool),
    SetSize(String, u64),
    Written(String, u64),
}

type Result<T> = core::result::Result<T, OperationError>;

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap()
}

impl Model {
    fn new() -> Self {
        Self {
            paths: BTreeMap::from([(String::new(), 0)]),
            inodes: alloc::vec![Kind::Directory],
        }
    }

    fn kind(&self, path: &str) -> Option<&Kind> {
        self.paths.get(path).map(|inode| &self.inodes[*inode])
    }

    fn is_directory(&self, path: &str) -> bool {
        self.kind(path) == Some(&Kind::Directory)
    }

    fn is_empty(&self, path: &str) -> bool {
        !self
            .paths
            .keys()
            .any(|other| other.starts_with(&format!("{path}/")))
    }

    /// What POSIX says of the step; the change when it is allowed.
    fn step(&mut self, step: &Step) -> Result<()> {
        use OperationError::{AlreadyExists, Invalid, IsADirectory, NotADirectory, NotEmpty, NotFound};
        match step {
            Step::Make(path, kind, exclusive) => {
                if let Some(found) = self.kind(path) {
                    let same = matches!((found, kind), (Kind::File(_), Kind::File(_)));
                    return if same && !exclusive {
                        Ok(())
                    } else {
                        Err(AlreadyExists)
                    };
                }
                self.inodes.push(kind.clone());
                self.paths.insert(path.clone(), self.inodes.len() - 1);
            }
            Step::Link(from, to) => {
                let inode = self.paths[from];
                if self.is_directory(from) {
                    return Err(IsADirectory);
                }
                if self.paths.contains_key(to) {
                    return Err(AlreadyExists);
                }
                self.paths.insert(to.clone(), inode);
            }
            Step::Unlink(path) => match self.kind(path).ok_or(NotFound)? {
                Kind::Directory => return Err(IsADirectory),
                _ => drop(self.paths.remove(path)),
            },
            Step::RemoveDirectory(path) => match self.kind(path).ok_or(NotFound)? {
                Kind::Directory if !self.is_empty(path) => return Err(NotEmpty),
                Kind::Directory => drop(self.paths.remove(path)),
                _ => return Err(NotADirectory),
            },
            Step::Move(from, to, replace) => self.rename(from, to, *replace)?,
            Step::SetSize(path, size) => match &mut self.inodes[self.paths[path]] {
                Kind::File(current) => *current = *size,
                Kind::Directory => return Err(IsADirectory),
                Kind::Link(_) => return Err(Invalid),
            },
            Step::Written(path, size) => match &mut self.inodes[self.paths[path]] {
                Kind::File(current) => *current = (*current).max(*size),
                Kind::Directory => return Err(IsADirectory),
                Kind::Link(_) => return Err(Invalid),
            },
        }
        Ok(())
    }

    /// rename(2).
    fn rename(&mut self, from: &str, to: &str, replace: bool) -> Result<()> {
        use OperationError::{AlreadyExists, Invalid, IsADirectory, NotADirectory, NotEmpty, NotFound};
        let inode = *self.paths.get(from).ok_or(NotFound)?;
        let moves_directory = self.is_directory(from);
        match self.paths.get(to) {
            Some(_) if !replace => return Err(AlreadyExists),
            Some(target) if *target == inode => return Ok(()),
            _ => {}
        }
        if moves_directory && format!("{to}/").starts_with(&format!("{from}/")) {
            return Err(Invalid);
        }
        match self.kind(to) {
            Some(Kind::Directory) if !moves_directory => return Err(IsADirectory),
            Some(Kind::Directory) if !self.is_empty(to) => return Err(NotEmpty),
            Some(Kind::File(_) | Kind::Link(_)) if moves_directory => return Err(NotADirectory),
            _ => {}
        }
        let inner = format!("{from}/");
        let moved: Vec<String> = self
            .paths
            .keys()
            .filter(|path| path.starts_with(&inner))
            .cloned()
            .collect();
        for path in moved {
            let inode = self.paths.remove(&path).unwrap();
            self.paths.insert(format!("{to}/{}", &path[inner.len()..]), inode);
        }
        self.paths.remove(from);
        self.paths.insert(to.to_string(), inode);
        Ok(())
    }

    /// Whether the step's own look-ups of the paths it names would succeed.
    fn finds_directories(&self, step: &Step) -> bool {
        let above = |path: &str| self.is_directory(split(path).0);
        match step {
            Step::Make(path, ..) | Step::Unlink(path) | Step::RemoveDirectory(path) => above(path),
            Step::Link(from, to) => self.paths.contains_key(from) && above(to),
            Step::Move(from, to, _) => above(from) && above(to),
            Step::SetSize(path, _) | Step::Written(path, _) => self.paths.contains_key(path),
        }
    }
}

/// The step as a program's node would send it: places by directory and name, files by id.
fn operation(catalog: &Catalog, step: &Step) -> FileOperation {
    let entry = |path: &String| catalog.locate(path).unwrap();
    let file = |path: &String| catalog.lookup_link(path).unwrap();
    match step {
        Step::Make(path, kind, exclusive) => FileOperation::Make {
            entry: entry(path),
            node: match kind {
                Kind::Directory => NewNode::Directory,
                Kind::File(_) => NewNode::File,
                Kind::Link(target) => NewNode::Symlink {
                    target: target.clone(),
                },
            },
            mode: 0o640,
            uid: 1,
            gid: 2,
            exclusive: *exclusive,
        },
        Step::Link(from, to) => FileOperation::Link {
            file: file(from),
            entry: entry(to),
        },
        Step::Unlink(path) => FileOperation::Unlink { entry: entry(path) },
        Step::RemoveDirectory(path) => FileOperation::RemoveDirectory { entry: entry(path) },
        Step::Move(from, to, replace) => FileOperation::Move {
            from: entry(from),
            to: entry(to),
            replace: *replace,
        },
        Step::SetSize(path, size) => FileOperation::SetSize {
            file: file(path),
            size: *size,
        },
        Step::Written(path, size) => FileOperation::Written {
            file: file(path),
            size: *size,
            modified: 7,
        },
    }
}

fn ask(catalog: &mut Catalog, number: u64, operation: Operation) -> Outcome {
    let origin = Origin {
        node: NodeId::new(1).unwrap(),
        session: 1,
        request: number,
        settled: number,
        time: number,
    };
    let origin = Some(origin);
    catalog.apply(number, &Record { origin, operation })
}

/// Every path with what it leads to and how many names that has.
fn listing(catalog: &Catalog) -> BTreeMap<String, (Kind, usize)> {
    let mut found = BTreeMap::new();
    for (_, inode) in catalog.inodes() {
        let kind = match &inode.node {
            Node::Directory { .. } => Kind::Directory,
            Node::File { size, .. } => Kind::File(*size),
            Node::Symlink { target } => Kind::Link(target.clone()),
        };
        for entry in &inode.names {
            let above = catalog.path(entry.directory).unwrap();
            let path = format!("{}/{}", above.trim_end_matches('/'), entry.name);
            found.insert(path, (kind.clone(), inode.names.len()));
        }
    }
    found
}

fn model_listing(model: &Model) -> BTreeMap<String, (Kind, usize)> {
    let names = |inode: usize| model.paths.values().filter(|other| **other == inode).count();
    let paths = model.paths.iter().filter(|(path, _)| !path.is_empty());
    paths
        .map(|(path, inode)| (path.clone(), (model.inodes[*inode].clone(), names(*inode))))
        .collect()
}

fn steps() -> impl Strategy<Value = Step> {
    let path = || "/[abc](/[abc]){0,2}";
    let kind = prop_oneof![
        Just(Kind::Directory),
        Just(Kind::Directory),
        Just(Kind::File(0)),
        Just(Kind::File(0)),
        "[abc]".prop_map(Kind::Link),
    ];
    prop_oneof![
        8 => (path(), kind, any::<bool>()).prop_map(|(path, kind, exclusive)| Step::Make(path, kind, exclusive)),
        2 => (path(), path()).prop_map(|(from, to)| Step::Link(from, to)),
        2 => path().prop_map(Step::Unlink),
        1 => path().prop_map(Step::RemoveDirectory),
        6 => (path(), path(), any::<bool>()).prop_map(|(from, to, replace)| Step::Move(from, to, replace)),
        2 => (path(), 0u64..60_000).prop_map(|(path, size)| Step::SetSize(path, size)),
        1 => (path(), 0u64..60_000).prop_map(|(path, size)| Step::Written(path, size)),
    ]
}

fn same_as_model(history: Vec<Step>) {
    let (mut catalog, mut model) = (Catalog::new(UNIT, &[60], 1 << 20), Model::new());
    let mut links = BTreeSet::new();
    for (number, step) in history.into_iter().enumerate() {
        // A link on the way is another file's business: the look-ups have a test of their own.
        if !model.finds_directories(&step) {
            continue;
        }
        if let Step::Make(path, Kind::Link(_), _) = &step {
            links.insert(path.clone());
        }
        let before = catalog.clone();
        let asked = operation(&catalog, &step);
        let got = ask(&mut catalog, number as u64 + 1, Operation::Files(asked)).map(drop);
        // Shrinking leaves a tail; the one who asked zeroes it at once.
        for file in catalog.inodes().map(|(id, _)| id).collect::<Vec<_>>() {
            catalog.clear_tail(file);
        }
        assert_eq!(got, model.step(&step), "{step:?}");
        if got.is_err() {
            assert_eq!(before.inodes, catalog.inodes, "a refusal changes nothing");
        }
        assert_eq!(listing(&catalog), model_listing(&model), "{step:?}");
        assert_eq!(Catalog::decode(&catalog.encode()).unwrap(), catalog);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn names_and_sizes_are_those_of_a_posix_tree(history in prop::collection::vec(steps(), 0..70)) {
        same_as_model(history);
    }
}

#[test]
fn a_link_is_followed_unless_it_is_asked_for_itself() {
    let mut catalog = Catalog::new(UNIT, &[4], 1 << 20);
    let mut number = 0;
    let mut make = |catalog: &mut Catalog, path: &str, node| {
        number += 1;
        let entry = catalog.locate(path).unwrap();
        let make = FileOperation::Make {
            entry,
            node,
            mode: 0,
            uid: 0,
            gid: 0,
            exclusive: true,
        };
        ask(catalog, number, Operation::Files(make)).unwrap();
    };
    let link = |target: &str| NewNode::Symlink {
        target: target.to_string(),
    };
    make(&mut catalog, "/d", NewNode::Directory);
    make(&mut catalog, "/d/f", NewNode::File);
    make(&mut catalog, "/absolute", link("/d/f"));
    make(&mut catalog, "/d/up", link("../d/./f"));
    make(&mut catalog, "/chain", link("d/up"));
    make(&mut catalog, "/directory", link("d/"));
    make(&mut catalog, "/one", link("two"));
    make(&mut catalog, "/two", link("one"));
    make(&mut catalog, "/dangling", link("nothing"));
    let file = catalog.lookup("/d/f").unwrap();
    for path in ["/absolute", "/d/up", "/chain", "/directory/f", "/directory/up"] {
        assert_eq!(catalog.lookup(path), Ok(file), "{path}");
    }
    assert_eq!(
        catalog.path(catalog.lookup_link("/chain").unwrap()).unwrap(),
        "/chain"
    );
    assert_eq!(
        catalog
            .path(catalog.lookup_link("/directory/up").unwrap())
            .unwrap(),
        "/d/up"
    );
    assert_eq!(catalog.lookup("/one"), Err(OperationError::TooManyLinks));
    assert_eq!(catalog.lookup("/dangling"), Err(OperationError::NotFound));
    assert_eq!(catalog.lookup("/absolute/x"), Err(OperationError::NotADirectory));
}

fn request(catalog: &mut Catalog, session: u64, number: u64, operation: FileOperation) -> Outcome {
    let node = NodeId::new(session as u8).unwrap();
    let origin = Origin {
        node,
        session,
        request: number,
        settled: number,
        time: 1,
    };
    let record = Record {
        origin: Some(origin),
        operation: Operation::Files(operation),
    };
    catalog.apply(number, &record)
}

fn file_in(catalog: &mut Catalog) -> FileId {
    file_named(catalog, "f", 1)
}

fn file_named(catalog: &mut Catalog, name: &str, number: u64) -> FileId {
    let entry = Entry::new(ROOT, name);
    let make = FileOperation::Make {
        entry,
        node: NewNode::File,
        mode: 0,
        uid: 0,
        gid: 0,
        exclusive: true,
    };
    match request(catalog, 1, number, make) {
        Ok(Reply::File(file)) => file,
        other => panic!("{other:?}"),
    }
}

#[test]
fn of_two_nodes_that_fill_a_hole_the_second_keeps_its_units() {
    let mut catalog = Catalog::new(UNIT, &[16], 1 << 20);
    let file = file_in(&mut catalog);
    let reserve = FileOperation::Reserve { units: 3 };
    let Ok(Reply::Reservation(first)) = request(&mut catalog, 1, 2, reserve.clone()) else {
        panic!()
    };
    let Ok(Reply::Reservation(second)) = request(&mut catalog, 2, 3, reserve) else {
        panic!()
    };
    let attach = |reservation, unit, count| FileOperation::Attach {
        file,
        reservation,
        unit,
        count,
    };
    request(&mut catalog, 1, 4, attach(first, 2, 2)).unwrap();
    assert_eq!(
        request(&mut catalog, 1, 5, attach(second, 0, 1)),
        Err(OperationError::NotFound),
        "another's"
    );
    request(&mut catalog, 2, 6, attach(second, 0, 4)).unwrap();
    let Node::File { extents, .. } = &catalog.inode(file).unwrap().node else {
        panic!()
    };
    let placed: Vec<(u32, u32)> = extents.iter().map(|extent| (extent.unit, extent.start)).collect();
    assert_eq!(
        placed,
        [(0, 3), (2, 0)],
        "two of the second's fill the holes, none replaces the first's"
    );
    assert_eq!((catalog.free_units(), catalog.reserved_units()), (10, 2));
    // The next life of node 1, and the leader's word on node 2, free what they had left.
    request(&mut catalog, 3, 7, FileOperation::Reserve { units: 1 }).unwrap();
    let life = Life {
        node: NodeId::new(2).unwrap(),
        session: 2,
    };
    assert!(catalog.claimants().contains(&life));
    let forfeit = Operation::Forfeit {
        node: life.node,
        session: life.session,
    };
    catalog
        .apply(
            8,
            &Record {
                origin: None,
                operation: forfeit,
            },
        )
        .unwrap();
    assert_eq!(catalog.reserved_units(), 2);
    let again = Origin {
        node: NodeId::new(1).unwrap(),
        session: 9,
        request: 1,
        settled: 1,
        time: 1,
    };
    let operation = Operation::Files(FileOperation::Appended { file });
    catalog
        .apply(
            9,
            &Record {
                origin: Some(again),
                operation,
            },
        )
        .unwrap();
    assert_eq!(catalog.reserved_units(), 1);
}

#[test]
fn a_cut_file_grows_only_when_its_last_unit_is_zeroed() {
    let mut catalog = Catalog::new(UNIT, &[16], 1 << 20);
    let file = file_in(&mut catalog);
    let Ok(Reply::Reservation(reservation)) =
        request(&mut catalog, 1, 2, FileOperation::Reserve { units: 3 })
    else {
        panic!()
    };
    request(
        &mut catalog,
        1,
        3,
        FileOperation::Attach {
            file,
            reservation,
            unit: 0,
            count: 3,
        },
    )
    .unwrap();
    let size = |size| FileOperation::SetSize { file, size };
    request(&mut catalog, 1, 4, size(3 * UNIT)).unwrap();
    request(&mut catalog, 1, 5, size(UNIT + 10)).unwrap();
    assert_eq!(catalog.waiting_units(), 1);
    for grow in [size(2 * UNIT), FileOperation::Append { file, length: 1 }] {
        assert_eq!(
            request(&mut catalog, 1, 6, grow.clone()),
            Err(OperationError::Busy)
        );
        assert_eq!(request(&mut catalog, 2, 6, grow), Err(OperationError::Busy));
    }
    assert_eq!(
        request(&mut catalog, 2, 7, FileOperation::ClaimTail { file }),
        Err(OperationError::Busy)
    );
    assert_eq!(
        request(&mut catalog, 2, 8, FileOperation::TailZeroed { file }),
        Err(OperationError::Busy)
    );
    catalog.forfeit(Life {
        node: NodeId::new(1).unwrap(),
        session: 1,
    });
    request(&mut catalog, 2, 9, FileOperation::ClaimTail { file }).unwrap();
    request(&mut catalog, 2, 10, FileOperation::TailZeroed { file }).unwrap();
    request(&mut catalog, 2, 11, size(2 * UNIT)).unwrap();
    request(&mut catalog, 2, 12, size(UNIT)).unwrap();
    assert_eq!(
        catalog.tail(file),
        None,
        "a cut between units leaves nothing behind"
    );
}

#[test]
fn one_node_at_a_time_appends() {
    let mut catalog = Catalog::new(UNIT, &[16], 1 << 20);
    let file = file_in(&mut catalog);
    let append = |length| FileOperation::Append { file, length };
    assert_eq!(request(&mut catalog, 1, 2, append(10)), Ok(Reply::Offset(0)));
    assert_eq!(request(&mut catalog, 2, 2, append(10)), Err(OperationError::Busy));
    assert_eq!(request(&mut catalog, 1, 3, append(5)), Ok(Reply::Offset(10)));
    request(&mut catalog, 1, 4, FileOperation::Appended { file }).unwrap();
    assert_eq!(request(&mut catalog, 2, 3, append(7)), Ok(Reply::Offset(15)));
}

#[test]
fn the_engines_files_are_not_changed_by_hand() {
    let mut catalog = Catalog::new(UNIT, &[16], 1 << 20);
    let create = Operation::Create {
        path: "/redo/1".into(),
        size: UNIT,
        kind: FileKind::Redo,
        exclusive: true,
    };
    catalog
        .apply(
            1,
            &Record {
                origin: None,
                operation: create,
            },
        )
        .unwrap();
    let (file, entry) = (
        catalog.lookup("/redo/1").unwrap(),
        catalog.locate("/redo/1").unwrap(),
    );
    let redo = catalog.locate("/redo").unwrap();
    let here = Entry::new(ROOT, "x");
    for (number, operation) in [
        FileOperation::Unlink { entry: entry.clone() },
        FileOperation::SetSize { file, size: 0 },
        FileOperation::Written {
            file,
            size: 9,
            modified: 1,
        },
        FileOperation::Append { file, length: 1 },
        FileOperation::Link {
            file,
            entry: here.clone(),
        },
        FileOperation::Move {
            from: entry,
            to: here.clone(),
            replace: true,
        },
        FileOperation::Move {
            from: redo,
            to: here,
            replace: true,
        },
        FileOperation::SetAttributes {
            file,
            change: AttributeChange::default(),
        },
        FileOperation::Punch {
            file,
            unit: 0,
            count: 1,
        },
    ]
    .into_iter()
    .enumerate()
    {
        let outcome = request(&mut catalog, 1, number as u64 + 1, operation);
        assert_eq!(outcome, Err(OperationError::Protected));
    }
}

fn open_files_survive_their_removal() {
    let mut catalog = Catalog::new(UNIT, &[16], 1 << 20);
    let file = file_in(&mut catalog);
    request(
        &mut catalog,
        1,
        2,
        FileOperation::Unlink {
            entry: Entry::new(ROOT, "f"),
        },
    )
    .unwrap();
    assert!(catalog.inode(file).is_none() && catalog.open_inode(file).is_some());
    request(&mut catalog, 1, 3, FileOperation::SetSize { file, size: 9 }).unwrap();
    let link = FileOperation::Link {
        file,
        entry: Entry::new(ROOT, "g"),
    };
    assert_eq!(
        request(&mut catalog, 1, 4, link),
        Err(OperationError::NotFound),
        "no way back"
    );
    let entries: Vec<u64> = catalog.limbo().map(|limbo| limbo.number).collect();
    catalog
        .apply(
            5,
            &Record {
                origin: None,
                operation: Operation::Release { entries },
            },
        )
        .unwrap();
    assert!(catalog.open_inode(file).is_none());
    assert_ne!(file_named(&mut catalog, "again", 9), file, "HZ-6");
}

#[test]
fn a_removed_file_stays_until_it_is_released_and_its_id_never_comes_back() {
    open_files_survive_their_removal();
    assert!(fails_with(Defect::ReuseFileId, open_files_survive_their_removal));
}
