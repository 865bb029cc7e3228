//! Kicking a vCPU's thread out of the guest.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::io;
use std::os::unix::thread::JoinHandleExt as _;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;

thread_local! {
    /// `immediate_exit` of the vCPU that runs on this thread.
    static IMMEDIATE_EXIT: Cell<*const AtomicU8> = const { Cell::new(std::ptr::null()) };
}

fn signal() -> libc::c_int {
    libc::SIGRTMIN()
}

/// Makes [`kick`] harmless to this process.
pub(super) fn handle_kicks() -> io::Result<()> {
    // SAFETY: an all-zero `sigaction` is valid: no flags, empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_kick as *const () as usize;
    // SAFETY: the action is initialised, and its function only stores to memory.
    match unsafe { libc::sigaction(signal(), &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

extern "C" fn on_kick(_: libc::c_int) {
    let flag = IMMEDIATE_EXIT.get();
    // SAFETY: either null or in the mapping of this thread's vCPU, see `prepare_thread`.
    if let Some(flag) = unsafe { flag.as_ref() } {
        flag.store(1, Ordering::Relaxed);
    }
}

/// Makes kicks of this thread end `vcpu`'s stay in the guest. The thread must keep the vCPU until it ends.
pub(super) fn prepare_thread(vcpu: &mut VcpuFd) {
    let flag: *mut u8 = &raw mut vcpu.get_kvm_run().immediate_exit;
    IMMEDIATE_EXIT.set(flag.cast::<AtomicU8>().cast_const());
}

/// The thread gives its vCPU up.
pub(super) fn forget_vcpu() {
    IMMEDIATE_EXIT.set(std::ptr::null());
}

/// Sends the signal that [`handle_kicks`] expects.
pub(super) fn kick(thread: &JoinHandle<()>) -> io::Result<()> {
    // SAFETY: the thread is joinable, so its handle is valid even if it has ended.
    match unsafe { libc::pthread_kill(thread.as_pthread_t(), signal()) } {
        // It has ended, and so left the guest.
        0 | libc::ESRCH => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// `suberror` of an exit by `KVM_EXIT_INTERNAL_ERROR`.
pub(super) fn internal_error_kind(run: &kvm_run) -> u32 {
    // SAFETY: the caller has seen the exit reason, which says that this is the valid part of the union.
    unsafe { run.__bindgen_anon_1.internal.suberror }
}
