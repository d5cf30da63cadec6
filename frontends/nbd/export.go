package nbd

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"blockengine/engine/volume"
	"blockengine/sdk/block"
)

// Export is a volume under a name behind a listener.
type Export struct {
	Name        string // up to 4096 bytes; "" is what clients get that ask for none
	Description string // for people, up to 4096 bytes
	Volume      *volume.Volume
	ReadOnly    bool
}

func (e *Export) check() error {
	switch {
	case e.Volume == nil:
		return fmt.Errorf("nbd export %q: it has no volume", e.Name)
	case len(e.Name) > maxString:
		return fmt.Errorf("nbd export: the name has %d bytes, the protocol allows %d", len(e.Name), maxString)
	case !utf8.ValidString(e.Name) || strings.ContainsRune(e.Name, 0):
		return fmt.Errorf("nbd export %q: a name is UTF-8 without NUL", e.Name)
	case len(e.Description) > maxString:
		return fmt.Errorf("nbd export %q: the description has %d bytes, the protocol allows %d", e.Name, len(e.Description), maxString)
	}
	return nil
}

// export is an Export in use.
type export struct {
	Export
	listener *Listener
	conns    census      // in transmission
	removed  atomic.Bool // nobody may enter any more
}

// flags are the transmission flags for a client that negotiated f.
func (e *export) flags(info *block.Info, f framing) uint16 {
	fl := flagHasFlags
	set := func(on bool, flag uint16) {
		if on {
			fl |= flag
		}
	}
	writable := !e.ReadOnly && !info.Has(block.CapReadOnly)
	set(!writable, flagReadOnly)
	set(info.Has(block.CapFlush), flagSendFlush)
	set(info.Has(block.CapFUA), flagSendFUA)
	set(info.Has(block.CapRotational), flagRotational)
	set(writable && info.Has(block.CapDiscard), flagSendTrim)
	set(writable && info.Has(block.CapWriteZeroes), flagSendWriteZeroes)
	set(writable && info.Has(block.CapWriteZeroes|block.CapFastZero), flagSendFastZero)
	set(f != simple, flagSendDF)
	set(info.Has(block.CapFlushCoversAll), flagCanMultiConn)
	set(info.Has(block.CapCache), flagSendCache)
	return fl
}

// blockSizes gives the constraints "minimum, preferred, maximum payload". The
// volume splits what the device cannot take whole, so the last is the text's.
func blockSizes(info *block.Info) (least, preferred, most uint32) {
	least = max(info.BlockSize, 1)
	return least, min(max(info.PreferredBlock, least, 512), maxPayload), maxPayload
}

// census counts what exists of something, so that one can wait for none. It is
// for the control path: conns come and go on all reactors.
type census struct {
	mu   sync.Mutex // guards n and none; nothing is called while it is held
	n    int
	none chan struct{} // closed when n is 0; nil if nobody waits
}

func (c *census) add(d int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n += d; c.n == 0 && c.none != nil {
		close(c.none)
		c.none = nil
	}
}

// join adds one unless there are most already.
func (c *census) join(most int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n >= most {
		return false
	}
	c.n++
	return true
}

func (c *census) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

// empty gives a channel that is closed once there is none.
func (c *census) empty() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == 0 {
		done := make(chan struct{})
		close(done)
		return done
	}
	if c.none == nil {
		c.none = make(chan struct{})
	}
	return c.none
}
