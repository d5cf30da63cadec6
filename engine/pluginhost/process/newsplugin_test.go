package process

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"blockengine/sdk/block"
)

// growing is a disk that is a MiB larger each time that it is looked at.
type growing struct {
	testDevice
	more atomic.Uint64 // MiB
}

func (g *growing) Info() block.Info {
	i := g.testDevice.Info()
	i.Size += g.more.Load() << 20
	return i
}

func (g *growing) Rescan(context.Context) error { g.more.Add(1); return nil }

// restless is one that grows by itself, and says so far more often than it does.
type restless struct{ growing }

func (g *restless) Watch(changed func()) {
	go func() {
		for i := 0; ; i++ {
			if i%100 == 0 && i < 1000 {
				g.more.Add(1)
			}
			changed()
			time.Sleep(100 * time.Microsecond)
		}
	}()
}

// wrong is one that says nonsense of itself once it is looked at.
type wrong struct{ growing }

func (g *wrong) Info() block.Info {
	i := g.testDevice.Info()
	switch g.more.Load() {
	case 1:
		i.BlockSize = 3
	case 2:
		i.Identity = strings.Repeat("x", 4096)
	}
	return i
}

func (g *wrong) Rescan(context.Context) error {
	if g.more.Add(1) > 2 {
		return errors.New("there is no drawer")
	}
	return nil
}
