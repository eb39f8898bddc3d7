//! The committed header is what cbindgen makes of the source.

use std::path::Path;

#[test]
fn the_header_is_that_of_the_source() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(package.join("cbindgen.toml")).unwrap();
    let made = cbindgen::Builder::new()
        .with_config(config)
        .with_src(package.join("src/lib.rs"))
        .generate()
        .unwrap();
    let mut text = Vec::new();
    made.write(&mut text);
    let text = String::from_utf8(text).unwrap();
    let path = package.join("aquifer.h");
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    if committed != text {
        let fresh = std::env::temp_dir().join(format!("aquifer-{}.h", std::process::id()));
        std::fs::write(&fresh, text).unwrap();
        panic!(
            "{} is not that of the source: look at {} and copy it there",
            path.display(),
            fresh.display()
        );
    }
}
