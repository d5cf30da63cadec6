// Package meter rewrites WebAssembly modules of strangers so that a call into
// them ends: it counts down a budget and the depth of calls, and caps memory
// and tables. It reads and writes the binary format only; it knows nothing of
// the runtime, of the plugin ABI, or of what the engine does after a trap.
// Start with Rewrite.
//
// # What is accepted
//
// WebAssembly 2.0 without vectors: MVP, sign extension, saturating truncation,
// bulk memory, reference types, multi-value, mutable globals. Imports are
// functions only. Inspect and Rewrite bound everything before the runtime sees
// the module (its decoder allocates by claimed counts), so they come first.
//
// # Budget
//
// A tick is unitsPerTick units, an instruction one unit or some more. A function
// charges its whole body when entered, each loop once; a branch back to a loop
// charges the loop's body again; bulk operations charge a tick for 64 bytes
// besides. Code charged but skipped makes the count an upper bound. The budget
// starts at zero: nothing runs until the host fills it.
//
// # Stack
//
// The runtime (wazero 1.12) doubles a goroutine-owned stack until it exceeds
// 50 MB, which allows about 100 MB for each instance, outside of the memory cap.
// The rewriter estimates the frame of each function from above: 416 bytes, and
// 8 for each value, as the compiler gives every spilled value its own slot and
// may need one per local and mutable global wherever control flow meets. A
// function that calls others takes its frame off the depth, in units of
// FrameUnit, and gives it back on every way out; one that calls none is bounded
// by MaxFrameBytes. So the stack stays below MaxCallDepth*FrameUnit +
// MaxFrameBytes (5 MiB by default), and all the generations of its doubling
// below four times that.
//
// # Per call
//
// Either export wrapped (the budget is the first parameter, and the wrapper sets
// the depth back) or set the globals ExportBudget and ExportDepth before the
// call. After a trap CauseOf tells from those globals why; after any call the
// budget's global holds what is left. A host function that calls back into the
// instance refills it: do not.
//
// # Figures
//
// 2-core virtual machine, Go 1.26, wazero 1.12, both cores shared with other
// work: single runs differ by a factor of two, so these are the smallest of a
// few and want repeating on a quiet machine before anyone leans on them. In ns,
// before, wrapped, globals set by the host: one header as C compiles it (three
// inner calls) 37, 38, 46; 16 headers 239, 273, 279; 16 headers in a guest of
// the Go toolchain (1,130 ticks) 607, 683, 630. Ticks last 1 to 5 ns in most
// code, 7 for square roots, and 125 in a chase of pointers through 16 MiB.
// Rewriting a Go guest takes 65 ms.
package meter

// Names that the rewriter adds, and prefixes it knows.
const (
	reservedPrefix = "blockengine.meter"
	// CustomPrefix starts the names of custom sections that Info copies.
	CustomPrefix = "blockengine."
	// ExportBudget is the exported mutable i64 global that holds the ticks left.
	ExportBudget = reservedPrefix + ".budget"
	// ExportDepth is the exported mutable i64 global that holds the depth left.
	ExportDepth = reservedPrefix + ".depth"
	// ExportStart is the exported function (i64 budget) that stands for the
	// start section of a module that had one. Run it once, before all else.
	ExportStart = reservedPrefix + ".start"
)
