package sys

import "golang.org/x/sys/unix"

// auditArch is how the kernel names this processor to a filter.
const auditArch = unix.AUDIT_ARCH_X86_64

// foreignCalls is where numbers begin that are another ABI's: x32 runs under
// the same name of the processor.
const foreignCalls = 0x40000000

// deniedHere are those of deniedCalls that only this processor has.
var deniedHere = []uint32{
	unix.SYS_KEXEC_FILE_LOAD, unix.SYS_IOPL, unix.SYS_IOPERM, unix.SYS_MODIFY_LDT, unix.SYS_USELIB, unix.SYS__SYSCTL,
	unix.SYS_CREATE_MODULE, unix.SYS_GET_KERNEL_SYMS, unix.SYS_QUERY_MODULE, unix.SYS_USTAT, unix.SYS_SYSFS,
}
