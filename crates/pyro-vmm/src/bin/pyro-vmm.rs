//! One machine's devices and engine, jailed. Started by `pyro_vmm::machine::Machine` with descriptors alone.

use std::process::ExitCode;

fn main() -> ExitCode {
    pyro_vmm::process::main()
}
