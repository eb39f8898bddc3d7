//! `bench io`: files of a pool beside `fio` on the same bytes of the same device.
//!
//! Rules: both use O_DIRECT and io_uring; they take turns in short rounds, so that a change of the machine's load meets
//! both; the file is written through before, so that neither pays for its allocation.

mod fio;
mod metadata;
mod pool;
mod target;

use super::figures::ratio;
use crate::failure::{Exit, Failure, Outcome};
use crate::load::interruptible;
use crate::output::{OutputOptions, note, table};
use crate::units::parse_size;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::time::Duration;

/// Options of `bench io`.
#[derive(Clone, Debug, clap::Args)]
pub struct IoOptions {
    /// Directory for the scratch devices [default: a temporary one].
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Bytes of the file that is read and written.
    #[arg(long, default_value = "1G", value_parser = parse_size)]
    size: u64,
    /// Rounds of each kind; fio and the pool take turns.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of each turn.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// These kinds only: depth1, depth32, sequential, append_sync, metadata.
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = ["depth1", "depth32", "sequential", "append_sync", "metadata"])]
    only: Vec<String>,
    #[command(flatten)]
    output: OutputOptions,
}

/// What is done to the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Kind {
    /// Field of the JSON answer.
    field: &'static str,
    name: &'static str,
    write: bool,
    random: bool,
    /// Bytes of an operation.
    bytes: usize,
    /// Operations at once.
    depth: usize,
    /// Each write is durable before the next.
    durable: bool,
}

impl Kind {
    const fn new(field: &'static str, name: &'static str, write: bool, bytes: usize, depth: usize) -> Self {
        Self {
            field,
            name,
            write,
            random: true,
            bytes,
            depth,
            durable: false,
        }
    }

    const fn in_order(self) -> Self {
        Self {
            random: false,
            ..self
        }
    }

    const fn durable(self) -> Self {
        Self {
            durable: true,
            ..self
        }
    }
}

const PAGE: usize = 8 << 10;

/// Every kind, in the order in which they are measured.
const KINDS: [Kind; 8] = [
    Kind::new("depth1", "random 8 KiB read, depth 1", false, PAGE, 1),
    Kind::new("depth1", "random 8 KiB write, depth 1", true, PAGE, 1),
    Kind::new("depth32", "random 8 KiB read, depth 32", false, PAGE, 32),
    Kind::new("depth32", "random 8 KiB write, depth 32", true, PAGE, 32),
    Kind::new("sequential", "sequential 1 MiB read, depth 4", false, 1 << 20, 4).in_order(),
    Kind::new("sequential", "sequential 1 MiB write, depth 4", true, 1 << 20, 4).in_order(),
    Kind::new("append_sync", "8 KiB read in order, depth 1", false, PAGE, 1).in_order(),
    Kind::new("append_sync", "8 KiB append, each durable", true, PAGE, 1)
        .in_order()
        .durable(),
];

/// Operations, the time they took, and the processor time of the process that did them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Work {
    operations: f64,
    seconds: f64,
    processor: f64,
}

impl Work {
    fn add(&mut self, more: Self) {
        self.operations += more.operations;
        self.seconds += more.seconds;
        self.processor += more.processor;
    }

    /// Microseconds of processor time for an operation.
    fn processor_each(&self) -> f64 {
        ratio(self.processor * 1e6, self.operations)
    }

    fn per_second(&self) -> f64 {
        if self.seconds > 0.0 {
            self.operations / self.seconds
        } else {
            0.0
        }
    }
}

/// One kind on one target, by both.
struct Measured {
    kind: Kind,
    fio: Work,
    pool: Work,
}

impl Measured {
    fn over(&self) -> f64 {
        ratio(self.pool.per_second(), self.fio.per_second())
    }

    fn row(&self) -> Vec<String> {
        let megabytes = |work: &Work| work.per_second() * self.kind.bytes as f64 / 1e6;
        let shown = |work: &Work| {
            let (rate, megabytes, processor) = (work.per_second(), megabytes(work), work.processor_each());
            format!("{rate:.0}/s, {megabytes:.0} MB/s, {processor:.1} us CPU each")
        };
        vec![
            self.kind.name.to_owned(),
            shown(&self.fio),
            shown(&self.pool),
            format!("{:.2}", self.over()),
        ]
    }
}

/// All of one target.
struct Report {
    target: &'static str,
    figures: Vec<Measured>,
    metadata: Option<metadata::Metadata>,
}

impl Report {
    fn text(&self) -> String {
        let heading = [self.target, "fio", "pool", "pool / fio"];
        let rows = self.figures.iter().map(Measured::row).collect();
        let line = self.metadata.as_ref().map(metadata::Metadata::line);
        format!("{}\n{}", table(&heading, rows), line.unwrap_or_default())
    }
}

/// Runs it.
pub async fn run(options: IoOptions) -> Outcome {
    fio::require()?;
    let targets = target::Targets::make(options.dir.as_deref(), options.size)?;
    let mut all = Vec::new();
    interruptible(async {
        for target in targets.list() {
            all.push(measure(target, &options).await?);
        }
        Ok(())
    })
    .await?;
    let object = answer(&all);
    options.output.emit(object, || {
        all.iter().map(Report::text).collect::<Vec<_>>().join("\n\n")
    })?;
    Ok(Exit::Done)
}

async fn measure(target: &target::Target, options: &IoOptions) -> Result<Report, Failure> {
    let pool = pool::Pool::make(&target.path, options.size).await?;
    let turn = Duration::from_secs(options.seconds);
    let mut all = Vec::new();
    let wanted = |name: &str| options.only.is_empty() || options.only.iter().any(|only| only == name);
    for kind in KINDS.into_iter().filter(|kind| wanted(kind.field)) {
        let mut measured = Measured {
            kind,
            fio: Work::default(),
            pool: Work::default(),
        };
        for round in 0..options.rounds {
            // Who begins changes with each round.
            for second in [false, true] {
                if (round % 2 == 0) == second {
                    measured.pool.add(pool.run(kind, turn).await?);
                } else {
                    measured
                        .fio
                        .add(fio::run(&target.path, pool.range(), kind, turn).await?);
                }
            }
        }
        note(format!(
            "{}: {}: {:.2} of fio",
            target.name,
            kind.name,
            measured.over()
        ));
        all.push(measured);
    }
    let metadata = if wanted("metadata") {
        Some(metadata::Metadata::measure(&pool, options.rounds, turn).await?)
    } else {
        None
    };
    Ok(Report {
        target: target.name,
        figures: all,
        metadata,
    })
}

/// The ratios of the worst target first, then each target with its figures.
fn answer(all: &[Report]) -> Value {
    let mut object = Map::new();
    for kind in &KINDS {
        let direction = if kind.write { "write" } else { "read" };
        let of_kind = all
            .iter()
            .flat_map(|report| &report.figures)
            .filter(|measured| measured.kind == *kind);
        let Some(worst) = of_kind.map(Measured::over).min_by(f64::total_cmp) else {
            continue;
        };
        let field = format!("{}_over_fio", kind.field);
        let entry = object.entry(field).or_insert_with(|| json!({}));
        entry[direction] = json!(worst);
    }
    let targets = all.iter().map(|report| {
        let rows = report.figures.iter().map(|measured| {
            json!({
                "what": measured.kind.name, "bytes": measured.kind.bytes, "depth": measured.kind.depth,
                "fio_per_second": measured.fio.per_second().round(), "pool_per_second": measured.pool.per_second().round(),
                "pool_over_fio": measured.over(), "fio_cpu_us": measured.fio.processor_each(),
                "pool_cpu_us": measured.pool.processor_each(),
            })
        });
        json!({
            "target": report.target, "figures": rows.collect::<Vec<_>>(),
            "metadata": report.metadata.as_ref().map(metadata::Metadata::object),
        })
    });
    object.insert("targets".into(), targets.collect());
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_has_the_worst_ratio_of_each_kind() {
        let work = |operations| Work {
            operations,
            seconds: 1.0,
            processor: 0.5,
        };
        let report = |target, pool| {
            let measured = |kind| Measured {
                kind,
                fio: work(100.0),
                pool: work(pool),
            };
            Report {
                target,
                figures: KINDS.into_iter().map(measured).collect(),
                metadata: None,
            }
        };
        let object = answer(&[report("file", 99.0), report("loop", 90.0)]);
        for field in ["depth1", "depth32", "sequential", "append_sync"] {
            for direction in ["read", "write"] {
                assert_eq!(
                    object[format!("{field}_over_fio")][direction],
                    json!(0.9),
                    "{field} {direction}"
                );
            }
        }
    }
}
