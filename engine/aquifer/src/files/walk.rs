//! Commands that look at everything below a directory.

use super::protocol::{FileInfo, FileRequest};
use super::session::Session;
use super::{FindOptions, inner, print_paths};
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{OutputOptions, table};
use crate::units::show_size;
use serde_json::json;
use std::collections::BTreeSet;

/// Everything at and below a path, directories before what is in them.
async fn walk(session: &mut Session, path: &str) -> Result<Vec<(String, FileInfo)>, Failure> {
    let mut found = vec![(path.to_owned(), session.stat(path, false).await?)];
    let mut at = 0;
    while at < found.len() {
        if found[at].1.is_directory() {
            let above = found[at].0.clone();
            for entry in session.list(&above).await? {
                found.push((format!("{}/{}", above.trim_end_matches('/'), entry.name), entry));
            }
        }
        at += 1;
    }
    Ok(found)
}

/// `fs du`: the bytes of each directory right below, and of all. A file with several names counts once.
pub async fn du(session: &mut Session, path: &str, output: OutputOptions) -> Outcome {
    let found = walk(session, path).await?;
    let mut seen = BTreeSet::new();
    let mut rows: Vec<(String, u64, u64)> = Vec::new();
    let inside = format!("{}/", path.trim_end_matches('/'));
    let mut total = (0, 0);
    for (at, info) in &found {
        let name = at.strip_prefix(&inside).and_then(|rest| rest.split('/').next());
        if info.is_directory() || !seen.insert(info.id) {
            continue;
        }
        total = (total.0 + info.size, total.1 + info.allocated);
        let name = name.unwrap_or(at).to_owned();
        match rows.iter_mut().find(|(known, ..)| *known == name) {
            Some((_, size, allocated)) => {
                *size += info.size;
                *allocated += info.allocated;
            }
            None => rows.push((name, info.size, info.allocated)),
        }
    }
    let object = json!({
        "entries": rows.iter().map(|(name, size, allocated)| json!({ "name": name, "size": size, "allocated": allocated })).collect::<Vec<_>>(),
        "size": total.0,
        "allocated": total.1,
    });
    output.emit(object, || {
        let line =
            |(name, size, allocated): (String, u64, u64)| vec![show_size(allocated), show_size(size), name];
        let mut lines: Vec<_> = rows.into_iter().map(line).collect();
        lines.push(line((path.to_owned(), total.0, total.1)));
        table(&["allocated", "size", "path"], lines)
    })?;
    Ok(Exit::Done)
}

/// `fs find`.
pub async fn find(session: &mut Session, options: &FindOptions) -> Outcome {
    let found = walk(session, inner(&options.path)).await?;
    let fits = |(path, info): &&(String, FileInfo)| {
        let name = path.rsplit('/').next().unwrap_or(path);
        let kind = match options.kind.as_deref() {
            Some("d") => info.is_directory(),
            Some("l") => info.is_link(),
            Some(_) => !info.is_directory() && !info.is_link(),
            None => true,
        };
        kind && options.name.as_ref().is_none_or(|pattern| is_like(name, pattern))
    };
    let paths: Vec<String> = found.iter().filter(fits).map(|(path, _)| path.clone()).collect();
    if options.output.json() {
        options.output.emit(json!({ "paths": paths }), String::new)?;
    } else {
        print_paths(&paths)?;
    }
    Ok(Exit::Done)
}

/// `fs rm -r`: from the leaves up.
pub async fn remove(session: &mut Session, path: &str) -> Result<(), Failure> {
    for (path, info) in walk(session, path).await?.into_iter().rev() {
        let request = if info.is_directory() {
            FileRequest::RemoveDirectory { path }
        } else {
            FileRequest::Unlink { path }
        };
        session.call(request).await?;
    }
    Ok(())
}

/// Whether `name` is like a pattern with `*` and `?`.
fn is_like(name: &str, pattern: &str) -> bool {
    let Some(first) = pattern.chars().next() else {
        return name.is_empty();
    };
    let rest = &pattern[first.len_utf8()..];
    let mut letters = name.chars();
    match first {
        '*' => is_like(name, rest) || letters.next().is_some() && is_like(letters.as_str(), pattern),
        '?' => letters.next().is_some() && is_like(letters.as_str(), rest),
        letter => letters.next() == Some(letter) && is_like(letters.as_str(), rest),
    }
}

/// A time in UTC for people.
pub fn show_time(nanoseconds: u64) -> String {
    crate::units::show_time(nanoseconds / 1_000_000_000, ' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_a_shell() {
        for (name, pattern) in [
            ("abc", "a*"),
            ("abc", "*c"),
            ("abc", "a?c"),
            ("", "*"),
            ("a.b", "*.*"),
        ] {
            assert!(is_like(name, pattern), "{name} {pattern}");
        }
        assert!(!is_like("abc", "a?") && !is_like("abc", "b*") && !is_like("", "?"));
    }

    #[test]
    fn times_are_dates() {
        assert_eq!(show_time(0), "1970-01-01 00:00:00Z");
        assert_eq!(show_time(1_709_210_096_000_000_000), "2024-02-29 12:34:56Z");
    }
}
