package builtin

// System calls that package syscall, which is frozen, has no numbers for.
const (
	sysPreadv2  = 327
	sysPwritev2 = 328
	sysStatx    = 332
)
