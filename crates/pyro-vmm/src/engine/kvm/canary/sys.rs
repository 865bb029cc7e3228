//! The canary's code. It is data to this process, which never runs it.
#![allow(unsafe_code)]

// Enters with the address of zeroed scratch memory, aligned to 64 bytes, in rsi.
std::arch::global_asm!(
    ".pushsection .rodata.pyro_canary, \"a\", @progbits",
    // The code that refers to the labels may be compiled into another object than this.
    ".globl pyro_canary_start, pyro_canary_handler, pyro_canary_end",
    ".hidden pyro_canary_start, pyro_canary_handler, pyro_canary_end",
    "pyro_canary_start:",
    "xor eax, eax",
    "cpuid",
    "rdtsc",
    // Compares with zero and sets one: SLUB, the kernel's allocator, cannot do without.
    "xor eax, eax",
    "xor edx, edx",
    "mov ebx, 1",
    "xor ecx, ecx",
    "lock cmpxchg16b [rsi]",
    "jnz 9f",
    "cmp qword ptr [rsi], 1",
    "jne 9f",
    // A breakpoint, as the kernel's patching of itself tests it. The handler counts in rdi.
    "xor edi, edi",
    "int3",
    "cmp edi, 1",
    "jne 9f",
    "fxsave64 [rsi]",
    "fxrstor64 [rsi]",
    // XSAVE and XRSTOR, where the processor has them.
    "mov eax, 1",
    "xor ecx, ecx",
    "cpuid",
    "bt ecx, 26",
    "jnc 2f",
    "mov rax, cr4",
    "or eax, 1 << 18",
    "mov cr4, rax",
    "xor ecx, ecx",
    "xor edx, edx",
    "mov eax, 3",
    "xsetbv",
    "mov eax, 3",
    "xsave64 [rsi]",
    "xrstor64 [rsi]",
    "2:",
    // SHLX, which has a VEX prefix and is part of BMI2.
    "xor eax, eax",
    "cpuid",
    "cmp eax, 7",
    "jb 3f",
    "mov eax, 7",
    "xor ecx, ecx",
    "cpuid",
    "bt ebx, 8",
    "jnc 3f",
    "mov eax, 1",
    "mov ecx, 4",
    "shlx rax, rax, rcx",
    "cmp eax, 16",
    "jne 9f",
    "3:",
    "mov ecx, {rounds}",
    "4:",
    "dec ecx",
    "jnz 4b",
    "mov al, {done}",
    "jmp 10f",
    "9:",
    "xor eax, eax",
    "10:",
    "mov dx, {port}",
    "out dx, al",
    "hlt",
    "pyro_canary_handler:",
    "inc edi",
    "iretq",
    "pyro_canary_end:",
    ".popsection",
    rounds = const super::ROUNDS,
    done = const super::DONE,
    port = const super::PORT,
);

unsafe extern "C" {
    static pyro_canary_start: u8;
    static pyro_canary_handler: u8;
    static pyro_canary_end: u8;
}

/// The code, and where in it the handler of breakpoints is.
pub(super) fn code() -> (&'static [u8], usize) {
    let start = &raw const pyro_canary_start;
    let len = (&raw const pyro_canary_end).addr() - start.addr();
    let handler = (&raw const pyro_canary_handler).addr() - start.addr();
    // SAFETY: the labels enclose constant bytes of this program.
    (unsafe { std::slice::from_raw_parts(start, len) }, handler)
}
