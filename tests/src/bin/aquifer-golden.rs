//! `aquifer-golden DIR`: makes the committed images of the present format version and their texts anew (`scripts/golden`).

use aquifer_dss::testing::TestRuntime;
use aquifer_tests::golden::{self, Golden};
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(directory) = std::env::args().nth(1) else {
        eprintln!("aquifer-golden: name the directory");
        return ExitCode::from(2);
    };
    match write(Path::new(&directory)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("aquifer-golden: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(directory: &Path) -> Result<(), String> {
    let put = |name: String, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    };
    for image in Golden::ALL {
        let blocks = golden::make(image)?;
        let runtime = TestRuntime::new(1);
        let (_, text) = runtime.block_on(async {
            let disk = golden::device(runtime.clone(), &blocks).await;
            golden::describe(disk.map_err(|error| error.to_string())?).await
        })?;
        put(format!("{}.hex", image.name()), &golden::encode(&blocks))?;
        put(format!("{}.txt", image.name()), &text)?;
    }
    Ok(())
}
