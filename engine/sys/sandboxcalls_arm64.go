package sys

import "golang.org/x/sys/unix"

// auditArch is how the kernel names this processor to a filter.
const auditArch = unix.AUDIT_ARCH_AARCH64

// foreignCalls is where numbers begin that are another ABI's. There are none.
const foreignCalls = 0x40000000

// deniedHere are those of deniedCalls that only this processor has.
var deniedHere = []uint32{unix.SYS_KEXEC_FILE_LOAD}
