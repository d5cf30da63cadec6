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
