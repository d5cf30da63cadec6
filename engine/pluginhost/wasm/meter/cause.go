package meter

// Cause says why a call into a rewritten module trapped.
type Cause int

// The causes, as CauseOf tells them.
const (
	CauseModule Cause = iota // the module's own trap; the meter had no part in it
	CauseBudget              // the budget was spent
	CauseDepth               // calls nested too deep
)

// String gives words for a log line.
func (c Cause) String() string {
	switch c {
	case CauseBudget:
		return "execution budget spent"
	case CauseDepth:
		return "calls nested too deep"
	}
	return "trap of the module's own"
}

// CauseOf tells why a call trapped from what the globals ExportBudget and
// ExportDepth hold after it.
func CauseOf(budget, depth int64) Cause {
	switch {
	case depth < 0:
		return CauseDepth
	case budget < 0:
		return CauseBudget
	}
	return CauseModule
}
