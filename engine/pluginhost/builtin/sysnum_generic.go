//go:build arm64 || riscv64 || loong64

package builtin

// System calls that package syscall, which is frozen, has no numbers for.
// These are the kernel's generic numbers, shared by the newer architectures.
const (
	sysPreadv2  = 286
	sysPwritev2 = 287
	sysStatx    = 291
)
