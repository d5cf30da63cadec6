package block

// Caps says what a disk can do by itself. What is missing is emulated or
// refused by the engine, never seen by the plugin.
type Caps uint32

const (
	// CapFlush: the disk has a volatile cache and OpFlush empties it. Without
	// it every acknowledged write is already durable.
	CapFlush Caps = 1 << 0
	// CapFUA: FUA is honoured; without it the engine adds a flush.
	CapFUA Caps = 1 << 1
	// CapDiscard: OpDiscard is understood.
	CapDiscard Caps = 1 << 2
	// CapWriteZeroes: OpWriteZeroes is understood; without it the engine
	// writes zeroes.
	CapWriteZeroes Caps = 1 << 3
	// CapFastZero: OpWriteZeroes with FastZero is understood.
	CapFastZero Caps = 1 << 4
	// CapBlockStatus: OpBlockStatus is understood; without it everything is data.
	CapBlockStatus Caps = 1 << 5
	// CapCache: OpCache is understood; without it the engine answers OK.
	CapCache Caps = 1 << 6
	// CapReadOnly: the disk refuses every operation that Modifies.
	CapReadOnly Caps = 1 << 7
	// CapRotational: seeks are slow.
	CapRotational Caps = 1 << 8
	// CapFlushCoversAll: a flush on one connection (or channel) makes durable
	// what was acknowledged on any of them. Without it the engine sends a
	// flush to each.
	CapFlushCoversAll Caps = 1 << 9
)

// Info describes a disk. Lengths are bytes; 0 in a Max field means that there
// is no limit of the disk's own.
type Info struct {
	Size           uint64
	BlockSize      uint32 // offsets and lengths are multiples; a power of two, 1 to 64 KiB
	PreferredBlock uint32 // the size at which the disk is fast; a power of two ≥ BlockSize
	MaxTransfer    uint32 // largest read or write; multiple of BlockSize
	MaxZeroes      uint64 // largest write-zeroes
	MaxDiscard     uint64 // largest discard
	Caps           Caps

	// Identity is what tells this disk from another one: serial number,
	// UUID, NGUID, export name. The engine compares it at every reconnect.
	Identity string
}

// Has reports whether all of c is set.
func (i *Info) Has(c Caps) bool { return i.Caps&c == c }
