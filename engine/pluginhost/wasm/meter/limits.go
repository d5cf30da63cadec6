package meter

// PageBytes is the size of a WebAssembly memory page.
const PageBytes = 64 << 10

// FrameUnit is the stack, in bytes, that one unit of [Limits.MaxCallDepth]
// stands for.
const FrameUnit = 512

// Limits bounds what a module may hold and what the rewritten module may use.
// Every count is checked before anything of that size is allocated. A zero
// field means zero, not "no limit": start from [DefaultLimits].
type Limits struct {
	MaxModuleBytes  uint32 // whole module
	MaxTypes        uint32 // entries of the type section
	MaxParams       uint32 // parameters of one type
	MaxResults      uint32 // results of one type
	MaxImports      uint32
	MaxExports      uint32
	MaxFunctions    uint32 // imported and own
	MaxTables       uint32
	MaxTableEntries uint32 // cap of each table, written into the module
	MaxGlobals      uint32
	MaxElemSegments uint32
	MaxElemEntries  uint32 // of all element segments together
	MaxDataSegments uint32
	MaxCustom       uint32 // custom sections
	MaxBodyBytes    uint32 // one function body
	MaxLocals       uint32 // one function, parameters not counted
	MaxNesting      uint32 // blocks inside each other in one function
	MaxBrTable      uint32 // targets of one br_table
	MaxNameBytes    uint32 // one import, export or custom section name

	// MaxFrameBytes is the largest estimated stack frame of one function; see
	// the package documentation for the estimate.
	MaxFrameBytes uint32

	// MaxCallDepth is the depth of nested calls in units of FrameUnit bytes of
	// estimated stack: a function with a larger frame counts as several. The
	// stack of one instance stays below MaxCallDepth*FrameUnit + MaxFrameBytes.
	MaxCallDepth uint32

	// MemoryPages is the cap of linear memory in pages of 64 KiB, written into
	// the module as its maximum.
	MemoryPages uint32
}

// DefaultLimits fits plugins built by the stock Go toolchain (about 3 MB,
// up to 10,000 functions) with room to spare: the runtime of such a guest, its
// garbage collector included, needs less than a quarter of the call depth. One
// instance stays under 16 MiB of memory and 5 MiB of estimated stack.
func DefaultLimits() Limits {
	return Limits{
		MaxModuleBytes:  16 << 20,
		MaxTypes:        4096,
		MaxParams:       64,
		MaxResults:      64,
		MaxImports:      256,
		MaxExports:      256,
		MaxFunctions:    50_000,
		MaxTables:       4,
		MaxTableEntries: 1 << 17,
		MaxGlobals:      128,
		MaxElemSegments: 4096,
		MaxElemEntries:  1 << 18,
		MaxDataSegments: 100_000,
		MaxCustom:       256,
		MaxBodyBytes:    1 << 20,
		MaxLocals:       2048,
		MaxNesting:      8192,
		MaxBrTable:      16_384,
		MaxNameBytes:    1024,
		MaxFrameBytes:   1 << 20,
		MaxCallDepth:    8 << 10,
		MemoryPages:     256,
	}
}
