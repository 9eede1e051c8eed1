//! A measured choice: right, stored for the machine, and without side effects. A process of its own, since it looks at the
//! global random generator and sets the cache folder.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use tch::{Device, Kind, Tensor};
use tidemill_torch::choice;

#[test]
fn a_measured_choice_is_right_is_stored_and_disturbs_nothing() {
    let folder = std::env::temp_dir().join(format!("tidemill-choice-{}", std::process::id()));
    // SAFETY: the only test of this process, and no other thread has started.
    unsafe { std::env::set_var("XDG_CACHE_HOME", &folder) };
    tch::manual_seed(9);
    let expected = Tensor::randn([3], (Kind::Float, Device::Cpu));
    tch::manual_seed(9);

    let weight = Tensor::ones([160, 96], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let input = Tensor::ones([50, 96], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let output = choice::linear(&input, &weight, None).unwrap();

    let drawn = Tensor::randn([3], (Kind::Float, Device::Cpu));
    assert_eq!(drawn, expected, "the random generator was used");
    assert!(!weight.grad().defined() && !input.grad().defined());
    assert_eq!(output.double_value(&[49, 159]), 96.0);
    output.sum(Kind::Float).backward();
    assert_eq!(weight.grad().double_value(&[0, 0]), 50.0);
    assert_eq!(input.grad().double_value(&[0, 0]), 160.0);

    let table = choice::table();
    assert_eq!(table.choices.len(), 3, "one choice a product");
    assert!(table.choices.iter().all(|(key, _)| key.rows == 64 && key.inputs == 96));
    let file = std::fs::read_dir(folder.join("tidemill")).unwrap().next().unwrap().unwrap();
    let stored: choice::KernelTable = serde_json::from_slice(&std::fs::read(file.path()).unwrap()).unwrap();
    assert_eq!(stored, table);
    std::fs::remove_dir_all(&folder).unwrap();
}
