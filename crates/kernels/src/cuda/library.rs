//! Where NVIDIA's libraries are. pip, conda, installers and system packages each have their own folders, and few people set a
//! library path for them.
//!
//! A library is asked for by its versioned name alone: `libnvrtc.so`, without a number, is whatever toolkit came last. What a
//! driver runs decides the number. A driver of CUDA 13 runs libraries of 13 and 12, which are looked for in this order in all
//! places; one of 12 never gets 13.

use std::cell::LazyCell;
use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use libloading::Library;

use super::ffi::Functions;
use crate::gpu::DeviceError;

/// Major versions of CUDA whose libraries have all that is called of them, newest first.
const MAJORS: [u32; 2] = [13, 12];

/// The oldest version of a driver that runs them, 12000 for 12.0.
pub(super) const OLDEST_DRIVER: u32 = 12_000;

/// A library to look for.
pub(super) struct Wanted {
    /// As people call it.
    library: &'static str,
    /// Its file names, the best first.
    names: Vec<String>,
    /// Beginning of the names of files that it opens itself, from where it may not find them: they are opened before it.
    parts: Option<&'static str>,
    /// Where it may be.
    places: &'static [Look],
    /// What the user can do.
    hint: String,
}

impl Wanted {
    /// The driver, which has had one name since there is CUDA.
    pub(super) fn driver() -> Self {
        Wanted {
            library: "the NVIDIA driver",
            names: vec!["libcuda.so.1".to_owned()],
            parts: None,
            places: &PLACES_OF_THE_DRIVER,
            hint: "install NVIDIA's driver (nvidia-smi then lists the device)".to_owned(),
        }
    }

    /// cuBLASLt, for a driver of version `driver`.
    pub(super) fn cublas_lt(driver: u32) -> Self {
        Wanted::of_toolkits("cuBLASLt", "cublasLt", "nvidia-cublas", Some(driver))
    }

    /// NVRTC, for a driver of version `driver` or for any.
    pub(super) fn nvrtc(driver: Option<u32>) -> Self {
        let parts = Some("libnvrtc-builtins.so.");
        Wanted { parts, ..Wanted::of_toolkits("NVRTC", "nvrtc", "nvidia-cuda-nvrtc", driver) }
    }

    fn of_toolkits(library: &'static str, stem: &str, wheel: &str, driver: Option<u32>) -> Self {
        let majors = majors(driver);
        // Wheels of 12 have the number in their names, those of 13 have it in their versions.
        let wheel = if majors.first() == Some(&12) { format!("{wheel}-cu12") } else { wheel.to_owned() };
        Wanted {
            library,
            names: majors.iter().map(|major| format!("lib{stem}.so.{major}")).collect(),
            parts: None,
            places: &PLACES,
            hint: format!(
                "pip install {wheel}, in the environment that is active or for the python3 on PATH"
            ),
        }
    }
}

/// Major versions that a driver of version `driver` runs, the best first. Without a driver, for code that is kept for one, the
/// oldest is: every driver runs it.
fn majors(driver: Option<u32>) -> Vec<u32> {
    match driver {
        Some(version) => MAJORS.into_iter().filter(|major| major * 1000 <= version).collect(),
        None => MAJORS.into_iter().rev().collect(),
    }
}

/// A library that is open, for the life of the process.
pub(super) struct Opened<F> {
    /// Its functions that lorafit calls.
    pub(super) functions: F,
    /// Its file, or its name where the system's linker found it.
    pub(super) path: PathBuf,
}

/// Opens the first of `wanted` that is found and has all functions.
///
/// # Errors
/// [`DeviceError::Library`], with every place.
pub(super) fn open<F: Functions>(wanted: &Wanted) -> Result<Opened<F>, DeviceError> {
    open_in(wanted, &Surroundings::of_process())
}

/// Opens `path`, or of a folder the first of `wanted` in it.
///
/// # Errors
/// [`DeviceError::Library`], with what does not open.
pub(super) fn open_at<F: Functions>(wanted: &Wanted, path: &Path) -> Result<Opened<F>, DeviceError> {
    let files = match path.is_dir() {
        true => wanted.names.iter().map(|name| path.join(name)).filter(|path| path.exists()).collect(),
        false => vec![path.to_owned()],
    };
    first_of(wanted, files.into_iter()).map_err(|refused| DeviceError::Library {
        library: wanted.library,
        looked_for: wanted.names.clone(),
        looked_in: [path.display().to_string()].into_iter().chain(refused).collect(),
        hint: wanted.hint.clone(),
    })
}

/// The first of `files` that opens and has all functions, or why each does not.
fn first_of<F: Functions>(
    wanted: &Wanted,
    files: impl Iterator<Item = PathBuf>,
) -> Result<Opened<F>, Vec<String>> {
    let mut refused = Vec::new();
    for path in files {
        if let Some(parts) = wanted.parts {
            open_parts(&path, parts);
        }
        match open_one(&path) {
            Ok(functions) => return Ok(Opened { functions, path }),
            // That the linker has no such name is said by the list of places.
            Err(_) if path.parent() == Some(Path::new("")) => {}
            Err(error) => refused.push(format!("{} does not open: {error}", path.display())),
        }
    }
    Err(refused)
}

fn open_in<F: Functions>(wanted: &Wanted, surroundings: &Surroundings) -> Result<Opened<F>, DeviceError> {
    let refused = match first_of(wanted, candidates(wanted, surroundings)) {
        Ok(opened) => return Ok(opened),
        Err(refused) => refused,
    };
    let mut looked_in: Vec<String> =
        surroundings.places(wanted.places).map(|place| place.to_string()).collect();
    looked_in.push("the folders of the system's linker (ldconfig)".to_owned());
    looked_in.extend(refused);
    Err(DeviceError::Library {
        library: wanted.library,
        looked_for: wanted.names.clone(),
        looked_in,
        hint: wanted.hint.clone(),
    })
}

fn open_one<F: Functions>(path: &Path) -> Result<F, libloading::Error> {
    // SAFETY: loading one of NVIDIA's libraries runs its initialisers only.
    let library = unsafe { Library::new(path)? };
    let functions = F::of(&library)?;
    // What it has begun on the device ends with the process.
    std::mem::forget(library);
    Ok(functions)
}

/// Opens what begins with `parts` beside `path`, and beside the file that it is a link to. A library that is open is found by
/// its name from then on.
fn open_parts(path: &Path, parts: &str) {
    let real = fs::canonicalize(path).unwrap_or_default();
    let mut folders: Vec<&Path> = [path, &real].into_iter().filter_map(Path::parent).collect();
    folders.dedup();
    for path in folders.into_iter().filter(|folder| folder.is_absolute()).flat_map(entries) {
        if name(&path).starts_with(parts) {
            // SAFETY: as above. What does not open is missed by whoever needs it.
            if let Ok(library) = unsafe { Library::new(path) } {
                std::mem::forget(library);
            }
        }
    }
}

/// The files that are tried, in order: of each name all that exist in the places, and then the name by itself, for the
/// system's linker.
fn candidates(wanted: &Wanted, surroundings: &Surroundings) -> impl Iterator<Item = PathBuf> {
    wanted.names.iter().flat_map(|name| {
        let folders = surroundings.places(wanted.places).flat_map(|place| place.folders);
        let files = folders.map(move |folder| folder.join(name)).filter(|path| path.exists());
        files.chain([PathBuf::from(name)])
    })
}

/// Folders that libraries may be in, and what they are.
struct Place {
    what: &'static str,
    folders: Vec<PathBuf>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.what)?;
        let mut separator = "";
        for folder in &self.folders {
            write!(f, "{separator}{}", folder.display())?;
            separator = ", ";
        }
        if self.folders.is_empty() { f.write_str("none") } else { Ok(()) }
    }
}

/// What decides where libraries may be.
struct Surroundings {
    /// Folders of `LD_LIBRARY_PATH`.
    library_path: Vec<PathBuf>,
    /// The program's folder.
    program: Option<PathBuf>,
    /// The active environment of Python's `venv`.
    venv: Option<PathBuf>,
    /// The active environment of conda.
    conda: Option<PathBuf>,
    /// Where `python3` has its packages; it is asked when all before it have nothing.
    python: LazyCell<Vec<PathBuf>, Box<dyn FnOnce() -> Vec<PathBuf>>>,
    /// `~/.local`.
    local: Option<PathBuf>,
    /// Toolkits that variables name.
    toolkits: Vec<PathBuf>,
    /// Folders in which toolkits are installed, as `cuda*`.
    installed: Vec<PathBuf>,
}

/// A place's name, and its folders.
type Look = (&'static str, fn(&Surroundings) -> Vec<PathBuf>);

/// Places in the order in which they are looked at.
const PLACES: [Look; 8] = [
    ("the library path (LD_LIBRARY_PATH)", |around| around.library_path.clone()),
    ("beside the program", |around| Vec::from_iter(around.program.clone())),
    ("the active virtual environment", |around| around.venv.iter().flat_map(|it| of_prefix(it)).collect()),
    ("the active environment of conda", |around| around.conda.iter().flat_map(|it| of_prefix(it)).collect()),
    ("the packages of python3", |around| around.python.iter().flat_map(|it| of_wheels(it)).collect()),
    ("the user's packages (~/.local)", |around| around.local.iter().flat_map(|it| of_prefix(it)).collect()),
    ("CUDA_HOME and CUDA_PATH", |around| around.toolkits.iter().flat_map(|it| of_toolkit(it)).collect()),
    ("installed toolkits (/usr/local/cuda*, /opt/cuda*)", Surroundings::installed_toolkits),
];

/// Places of the driver, which no package of Python and no toolkit has.
const PLACES_OF_THE_DRIVER: [Look; 2] = [
    PLACES[0],
    ("folders of drivers", |_| {
        // The Windows Subsystem for Linux, containers of Kubernetes, NixOS.
        let known = ["/usr/lib/wsl/lib", "/usr/local/nvidia/lib64", "/run/opengl-driver/lib"];
        known.map(PathBuf::from).to_vec()
    }),
];

impl Surroundings {
    /// Those of this process.
    fn of_process() -> Self {
        let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        let folder = |name: &str| set(name).map(PathBuf::from);
        let library_path = set("LD_LIBRARY_PATH").unwrap_or_default();
        Surroundings {
            library_path: env::split_paths(&library_path).filter(|path| path.is_absolute()).collect(),
            program: env::current_exe().ok().and_then(|program| Some(program.parent()?.to_owned())),
            venv: folder("VIRTUAL_ENV"),
            conda: folder("CONDA_PREFIX"),
            python: LazyCell::new(Box::new(packages_of_python)),
            local: folder("HOME").map(|home| home.join(".local")),
            toolkits: ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(folder).collect(),
            installed: ["/usr/local", "/opt"].map(PathBuf::from).to_vec(),
        }
    }

    fn places(&self, looks: &'static [Look]) -> impl Iterator<Item = Place> {
        looks.iter().map(|&(what, folders)| Place { what, folders: folders(self) })
    }

    /// Toolkits, the newest version first.
    fn installed_toolkits(&self) -> Vec<PathBuf> {
        let mut toolkits: Vec<PathBuf> = self.installed.iter().flat_map(|folder| entries(folder)).collect();
        toolkits.retain(|toolkit| name(toolkit).starts_with("cuda"));
        toolkits.sort_by_key(|toolkit| std::cmp::Reverse(numbers(&name(toolkit))));
        toolkits.iter().flat_map(|toolkit| of_toolkit(toolkit)).collect()
    }
}

/// Folders under the prefix of an installation of Python or conda: its wheels, and what conda packages without Python put.
fn of_prefix(prefix: &Path) -> Vec<PathBuf> {
    let mut pythons = entries(&prefix.join("lib"));
    pythons.retain(|python| name(python).starts_with("python3"));
    pythons.sort_by_key(|python| std::cmp::Reverse(numbers(&name(python))));
    let wheels = pythons
        .iter()
        .flat_map(|python| ["site-packages", "dist-packages"].map(|packages| python.join(packages)))
        .flat_map(|packages| of_wheels(&packages));
    wheels.chain([prefix.join("lib")]).chain(targets(prefix)).filter(|folder| folder.is_dir()).collect()
}

/// Folders of NVIDIA's wheels: `nvidia/cu13/lib` has all of CUDA 13, before that each library had one of its own.
fn of_wheels(packages: &Path) -> Vec<PathBuf> {
    let folders = entries(&packages.join("nvidia")).into_iter().map(|wheel| wheel.join("lib"));
    folders.filter(|folder| folder.is_dir()).collect()
}

/// Folders of a toolkit.
fn of_toolkit(toolkit: &Path) -> Vec<PathBuf> {
    let folders = ["lib64", "lib"].map(|lib| toolkit.join(lib)).into_iter().chain(targets(toolkit));
    folders.filter(|folder| folder.is_dir()).collect()
}

/// `targets/x86_64-linux/lib` and the like.
fn targets(prefix: &Path) -> impl Iterator<Item = PathBuf> {
    entries(&prefix.join("targets")).into_iter().map(|target| target.join("lib"))
}

/// What a folder has, sorted; nothing of what is none.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let listed = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = listed.map(|entry| entry.path()).collect();
    paths.sort_unstable();
    paths
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or(OsStr::new("")).to_string_lossy().into_owned()
}

/// The numbers in a name: 12.10 is newer than 12.9.
fn numbers(name: &str) -> Vec<u32> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// Where `python3` looks for packages, by its own word: what is on `PATH` may be a script that chooses an installation.
fn packages_of_python() -> Vec<PathBuf> {
    let asked = Command::new("python3")
        .args(["-c", "import sys; print('\\n'.join(sys.path))"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let answer = asked.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    answer.lines().filter(|line| !line.is_empty()).map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine in a folder of its own.
    struct Machine(tempfile::TempDir);

    impl Machine {
        /// With these files.
        fn with(files: &[&str]) -> Self {
            let machine = Machine(tempfile::tempdir().expect("a folder"));
            for file in files {
                let path = machine.0.path().join(file);
                fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
                fs::write(path, "").expect("a file");
            }
            machine
        }

        fn path(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        /// Everything is set, to folders that may not be there.
        fn surroundings(&self) -> Surroundings {
            let packages = self.path("python/lib/python3.12/site-packages");
            Surroundings {
                library_path: vec![self.path("on_path"), self.path("on_path_too")],
                program: Some(self.path("bin")),
                venv: Some(self.path("venv")),
                conda: Some(self.path("conda")),
                python: LazyCell::new(Box::new(move || vec![packages])),
                local: Some(self.path("home/.local")),
                toolkits: vec![self.path("cuda_home")],
                installed: vec![self.path("usr/local")],
            }
        }

        /// The files tried for NVRTC with a driver of version `driver`, relative to the folder of the machine.
        fn tries(&self, driver: Option<u32>) -> Vec<String> {
            let (wanted, surroundings) = (Wanted::nvrtc(driver), self.surroundings());
            let from_here = |path: PathBuf| path.strip_prefix(self.0.path()).unwrap_or(&path).to_owned();
            candidates(&wanted, &surroundings).map(|path| from_here(path).display().to_string()).collect()
        }
    }

    const WHEELS_OF_13: &str = "python/lib/python3.12/site-packages/nvidia/cu13/lib/libnvrtc.so.13";
    const WHEELS_OF_12: &str = "python/lib/python3.12/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12";

    #[test]
    fn a_driver_of_12_never_gets_libraries_of_13() {
        assert_eq!(majors(Some(12_090)), [12]);
        assert_eq!(majors(Some(13_000)), [13, 12]);
        assert_eq!(majors(Some(14_010)), [13, 12]);
        assert_eq!(majors(Some(11_080)), [0; 0]);
        let only_13 = Machine::with(&[WHEELS_OF_13]);
        assert_eq!(only_13.tries(Some(12_080)), ["libnvrtc.so.12"]);
        assert_eq!(only_13.tries(Some(13_000)), [WHEELS_OF_13, "libnvrtc.so.13", "libnvrtc.so.12"]);
    }

    #[test]
    fn a_driver_of_13_takes_libraries_of_12_where_there_are_no_others() {
        let only_12 = Machine::with(&[WHEELS_OF_12]);
        assert_eq!(only_12.tries(Some(13_010)), ["libnvrtc.so.13", WHEELS_OF_12, "libnvrtc.so.12"]);
        let both = Machine::with(&[WHEELS_OF_12, WHEELS_OF_13]);
        assert_eq!(both.tries(Some(13_010))[0], WHEELS_OF_13);
        assert_eq!(both.tries(Some(12_040))[0], WHEELS_OF_12);
        assert_eq!(both.tries(None)[0], WHEELS_OF_12, "code that is kept for any driver");
    }

    #[test]
    fn an_old_toolkit_on_the_library_path_does_not_win() {
        let machine = Machine::with(&[
            "on_path/libnvrtc.so",
            "on_path/libnvrtc.so.11.2",
            "on_path/libnvrtc.so.12",
            WHEELS_OF_13,
        ]);
        let tries = machine.tries(Some(13_000));
        assert_eq!(tries, [WHEELS_OF_13, "libnvrtc.so.13", "on_path/libnvrtc.so.12", "libnvrtc.so.12"]);
        assert!(Machine::with(&["on_path/libnvrtc.so"]).tries(Some(12_000)) == ["libnvrtc.so.12"]);
    }

    /// All places have the library.
    #[test]
    fn places_are_looked_at_in_their_order() {
        let order = [
            "on_path/libnvrtc.so.12",
            "on_path_too/libnvrtc.so.12",
            "bin/libnvrtc.so.12",
            "venv/lib/python3.11/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
            "conda/lib/python3.13/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
            "conda/lib/libnvrtc.so.12",
            "conda/targets/x86_64-linux/lib/libnvrtc.so.12",
            WHEELS_OF_12,
            "home/.local/lib/python3.12/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
            "home/.local/lib/python3.9/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
            "cuda_home/lib64/libnvrtc.so.12",
            "usr/local/cuda-12.10/lib64/libnvrtc.so.12",
            "usr/local/cuda-12.9/lib64/libnvrtc.so.12",
            "usr/local/cuda-12.9/targets/sbsa-linux/lib/libnvrtc.so.12",
            "usr/local/cuda/lib64/libnvrtc.so.12",
            "libnvrtc.so.12",
        ];
        let (linker, files) = order.split_last().expect("places");
        let mut shuffled: Vec<&str> = files.to_vec();
        shuffled.sort_unstable();
        assert_eq!(Machine::with(&shuffled).tries(Some(12_080)), order, "before {linker}");
    }

    /// Python takes tenths of a second to start on some file systems.
    #[test]
    fn python_is_not_asked_where_a_place_before_it_has_the_library() {
        let machine = Machine::with(&["bin/libnvrtc.so.13"]);
        let python: Box<dyn FnOnce() -> Vec<PathBuf>> = Box::new(|| panic!("asked"));
        let surroundings = Surroundings { python: LazyCell::new(python), ..machine.surroundings() };
        let first = candidates(&Wanted::nvrtc(Some(13_000)), &surroundings).next();
        assert_eq!(first, Some(machine.path("bin/libnvrtc.so.13")));
    }

    #[test]
    fn the_error_lists_every_place_and_what_does_not_open() {
        let machine = Machine::with(&["on_path/libnvrtc.so.13", "venv/lib/libnvrtc.so.12"]);
        let error =
            open_in::<super::super::ffi::Nvrtc>(&Wanted::nvrtc(Some(13_000)), &machine.surroundings());
        let text = error.map(|opened| opened.path).expect_err("empty files").to_string();
        let root = machine.0.path().display();
        for expected in [
            "NVRTC was not found: no libnvrtc.so.13 or libnvrtc.so.12 that opens in any of these places:"
                .to_owned(),
            format!("the library path (LD_LIBRARY_PATH): {root}/on_path, {root}/on_path_too"),
            format!("beside the program: {root}/bin"),
            format!("the active virtual environment: {root}/venv/lib"),
            "the packages of python3: none".to_owned(),
            "installed toolkits (/usr/local/cuda*, /opt/cuda*): none".to_owned(),
            "the folders of the system's linker (ldconfig)".to_owned(),
            format!("{root}/on_path/libnvrtc.so.13 does not open: "),
            format!("{root}/venv/lib/libnvrtc.so.12 does not open: "),
        ] {
            assert!(text.contains(&expected), "{expected} is not in\n{text}");
        }
    }
}
