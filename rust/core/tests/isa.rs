//! The requested instruction set is the one that runs.

mod common;

use common::{Model, Random, forward};
use lrgate::{Error, Isa, Network, Strategy};

/// Checks `LRGATE_ISA`. The whole test suite is run once per instruction set.
#[test]
fn lrgate_isa_is_obeyed() {
    let isa = Isa::detect().expect("LRGATE_ISA names no instruction set of this machine");
    match std::env::var("LRGATE_ISA") {
        Ok(asked) => assert_eq!(isa.name(), asked),
        Err(_) => assert_eq!(isa, Isa::best()),
    }
    let model = Model::relu(1, &[20, 30, 5]);
    let network = Network::new(model.layers.clone(), None).unwrap();
    assert_eq!(network.isa(), isa);
    let row = Random(1).values(20);
    let same = model.network(isa, &model.uniform(Strategy::Dense));
    assert_eq!(forward(&network, &row, 1), forward(&same, &row, 1));
}

#[test]
fn names_lead_back() {
    let available = Isa::available();
    assert_eq!(available[0], Isa::best());
    assert_eq!(available[available.len() - 1].name(), "portable");
    for isa in available {
        assert_eq!(Isa::by_name(isa.name()), Ok(isa));
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn all_that_the_cpu_has_is_available() {
    let has = |name| Isa::by_name(name).is_ok();
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    assert_eq!(has("avx2"), avx2);
    // The AVX-512 kernels need at least the foundation instructions.
    assert!(!has("avx512") || is_x86_feature_detected!("avx512f"));
    assert!(!has("avx512amx") || has("avx512vnni"));
    // Linux lists the flag only where it can store the tiles.
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flag = cpu.split_whitespace().any(|flag| flag == "amx_int8");
    assert_eq!(has("avx512amx"), flag && has("avx512vnni"));
}

#[test]
fn an_unknown_name_is_an_error() {
    let names: Vec<_> = Isa::available().into_iter().map(Isa::name).collect();
    for got in ["sse9", "", "AVX2", "avx2 ", "neon"] {
        let error = Isa::by_name(got).unwrap_err();
        let available = names.join(", ");
        assert_eq!(
            error.to_string(),
            format!("LRGATE_ISA must be one of {available} on this machine, got {got:?}")
        );
        assert_eq!(error, Error::Isa { available, got: got.to_owned() });
    }
}

/// The environment is read at the first use, so this runs in a separate process.
#[test]
fn an_unknown_lrgate_isa_fails_every_network() {
    const ASKED: &str = "LRGATE_TEST_CHILD";
    if std::env::var_os(ASKED).is_some() {
        let layers = Model::relu(1, &[2, 2]).layers;
        let message = Network::new(layers, None).map(|_| ()).unwrap_err().to_string();
        assert_eq!(Isa::detect().unwrap_err().to_string(), message);
        eprintln!("{message}");
        return;
    }
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "an_unknown_lrgate_isa_fails_every_network"])
        .env(ASKED, "1")
        .env("LRGATE_ISA", "avx1024")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&child.stderr).into_owned();
    assert!(child.status.success(), "{errors}");
    assert!(errors.contains("got \"avx1024\""), "{errors}");
}
