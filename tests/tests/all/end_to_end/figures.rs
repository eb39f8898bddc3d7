//! The benchmarks answer with the figures that they promise.

use super::rig::{Place, program, run};

#[test]
fn io_is_compared_with_fio_on_the_same_device() {
    if program("fio").is_none() {
        return;
    }
    let place = Place::new("bench-io");
    let place = place.0.to_str().unwrap();
    let output = run(&[
        "bench",
        "io",
        "--dir",
        place,
        "--size",
        "16M",
        "--rounds",
        "1",
        "--only",
        "depth1,metadata",
        "-o",
        "json",
    ]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for direction in ["read", "write"] {
        let ratio = answer["depth1_over_fio"][direction].as_f64();
        assert!(ratio.is_some_and(|ratio| ratio > 0.0), "{direction}: {answer}");
    }
    assert!(
        answer["depth32_over_fio"].is_null(),
        "only what was asked for: {answer}"
    );
    let metadata = &answer["targets"][0]["metadata"];
    assert!(metadata["creates_per_second"].as_f64() > Some(0.0), "{answer}");
    let left = std::fs::read_dir(place).unwrap().count();
    assert_eq!(left, 0, "the scratch devices are taken away");
}
