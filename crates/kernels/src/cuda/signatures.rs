//! What kernels take, read from their declarations in CUDA C: by this a recorder holds launches to them.

use std::collections::BTreeMap;

use super::SOURCES;
use crate::gpu::recorder::{Kernels, Parameter};

/// The parameters of every entry of [`SOURCES`].
pub(super) fn kernels() -> Kernels {
    let mut entries = Kernels::new();
    for source in SOURCES {
        let declared = declared(source.text);
        for &entry in source.entries {
            let name = entry.split('<').next().expect("a name");
            let parameters = declared.get(name).expect("every entry has a kernel");
            entries.insert(entry, parameters.clone());
        }
    }
    entries
}

/// The parameters of the kernels of a text, by names without template arguments.
fn declared(text: &str) -> BTreeMap<&str, Vec<Parameter>> {
    let kernels = text.split("KERNEL(").skip(1).map(|rest| {
        let (name, rest) = rest.split_once(')').expect("bounds").1.split_once('(').expect("a name");
        let parameters = rest.split_once(')').expect("parameters").0;
        (name.trim(), parameters.split(',').map(parameter).collect())
    });
    kernels.collect()
}

/// A parameter from its declaration.
fn parameter(declaration: &str) -> Parameter {
    let words: Vec<&str> = declaration.split_whitespace().collect();
    match (declaration.contains('*'), words.first()) {
        (true, Some(&"const")) => Parameter::Read,
        (true, _) => Parameter::Write,
        (false, Some(&("u32" | "i32"))) => Parameter::U32,
        (false, Some(&"u64")) => Parameter::U64,
        (false, Some(&"float")) => Parameter::F32,
        _ => panic!("a kernel's parameter `{declaration}` is of a kind that launches do not have"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda;
    use crate::gpu::{Arg, Float, Gpu};
    use crate::ops::elementwise;

    #[test]
    fn declarations_are_read_as_they_are_written() {
        let text = "KERNEL(THREADS) turn(const T *x, u64 len, i32 first, float by, T *y) {}";
        let expected =
            [Parameter::Read, Parameter::U64, Parameter::U32, Parameter::F32, Parameter::Write].to_vec();
        assert_eq!(declared(text), BTreeMap::from([("turn", expected)]));
    }

    #[test]
    #[should_panic(expected = "the kernel takes")]
    fn a_recorder_knows_what_our_kernels_take() {
        let gpu = Gpu::over(cuda::recorder(64 << 20), Float::F32);
        let (x, y) = (gpu.buffer_of(&[0; 40]), gpu.buffer_of(&[0; 40]));
        let mut launch = elementwise::cuda::add(Float::F32, x.region(), 10, y.region());
        gpu.run(&launch);
        launch.args[1] = Arg::U32(10);
        gpu.run(&launch);
    }
}
