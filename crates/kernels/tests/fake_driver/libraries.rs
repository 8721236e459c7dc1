//! Builds the driver whose device is the processor, and the libraries that stand for NVIDIA's above it.

#[path = "../cuda_shim/compile.rs"]
mod compile;

use std::path::{Path, PathBuf};

use self::compile::{Compiler, Unit};

/// Kernels are tested elsewhere, with sanitizers; here they have to be fast. Arithmetic rounds as its source says.
const FLAGS: [&str; 5] = ["-std=c++17", "-O1", "-ffp-contract=off", "-fPIC", "-fvisibility=hidden"];

/// Folders with libraries.
pub struct Libraries {
    /// Of the driver.
    pub driver: PathBuf,
    /// Of cuBLASLt and NVRTC in each major version.
    toolkits: [(u32, PathBuf); 2],
}

impl Libraries {
    /// `None`, and "skipped" said, where no C++ compiler is, or no Linux, whose libraries these are.
    pub fn build() -> Option<Self> {
        if !cfg!(target_os = "linux") {
            println!("skipped: the driver is one for Linux");
            return None;
        }
        let Some(compiler) = Compiler::find("fake_driver", &FLAGS) else {
            println!("skipped: no C++ compiler here");
            return None;
        };
        let shared = |path: &str, units: Vec<Unit>| {
            let name = Path::new(path).file_name().expect("a name").to_string_lossy().into_owned();
            compiler.make(path, units, &["-shared", &format!("-Wl,-soname,{name}"), "-ldl"])
        };
        let mut units = compile::kernels(&[]);
        units.push(compile::unit("fibers.cpp"));
        units.push(Unit { name: "cuda".to_owned(), text: include_str!("cuda.cpp").to_owned() });
        let driver = folder_of(&shared("driver/libcuda.so.1", units));
        let toolkits = [12, 13].map(|major| {
            let unit = |name: &str, text: &str| {
                let text = format!("#define FAKE_VERSION {major}\n{text}");
                vec![Unit { name: format!("{name}_{major}"), text }]
            };
            let path = |name: &str| format!("toolkit_{major}/{name}");
            shared(&path(&format!("libnvrtc-builtins.so.{major}.0")), unit("builtins", ""));
            shared(&path(&format!("libnvrtc.so.{major}")), unit("nvrtc", include_str!("nvrtc.cpp")));
            let cublas = unit("cublas_lt", include_str!("cublas_lt.cpp"));
            (major, folder_of(&shared(&path(&format!("libcublasLt.so.{major}")), cublas)))
        });
        Some(Libraries { driver, toolkits })
    }

    /// The folder of cuBLASLt and NVRTC of a major version, 12 or 13.
    pub fn toolkit(&self, major: u32) -> &PathBuf {
        &self.toolkits.iter().find(|(known, _)| *known == major).expect("a version").1
    }
}

fn folder_of(library: &Path) -> PathBuf {
    library.parent().expect("a folder").to_owned()
}
