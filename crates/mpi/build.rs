//! Compiles the shim with the compiler that MPI brings, and links what that compiler links.

#[cfg(not(feature = "mpi"))]
fn main() {}

#[cfg(feature = "mpi")]
fn main() {
    use std::env;
    use std::process::Command;

    println!("cargo:rerun-if-changed=src/shim.c");
    println!("cargo:rerun-if-env-changed=MPICC");
    let compiler = env::var("MPICC").unwrap_or_else(|_| "mpicc".to_owned());
    // Open MPI and MPICH both show so what they would call.
    let shown = Command::new(&compiler).arg("-show").output();
    let shown = match shown {
        Ok(shown) if shown.status.success() => String::from_utf8_lossy(&shown.stdout).into_owned(),
        _ => {
            eprintln!(
                "error: {compiler}, the compiler of MPI, cannot be called\n\
                 hint: install Open MPI (apt-get install libopenmpi-dev openmpi-bin) or MPICH (libmpich-dev mpich), or name its \
                 compiler with MPICC=PATH"
            );
            std::process::exit(1);
        }
    };
    for word in shown.split_whitespace() {
        if let Some(folder) = word.strip_prefix("-L") {
            println!("cargo:rustc-link-search=native={folder}");
        } else if let Some(library) = word.strip_prefix("-l") {
            println!("cargo:rustc-link-lib={library}");
        }
    }
    cc::Build::new().compiler(&compiler).file("src/shim.c").warnings(true).compile("lorafit_mpi_shim");
}
