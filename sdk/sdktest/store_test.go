package sdktest_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"blockengine/sdk/block"
	"blockengine/sdk/sdktest"
	"blockengine/sdk/store"
)

// ram is a store in memory that misbehaves as its fault says.
type ram struct {
	fault  string
	looked bool       // at a disk that is smaller then
	mu     sync.Mutex // guards data
	data   []byte
}

func (r *ram) Manifest() store.Manifest { return store.Manifest{Name: "ram", Version: "1"} }

func (r *ram) Open(context.Context, store.Options) (store.Device, error) {
	if r.fault == "forgets" {
		clear(r.data)
	}
	return r, nil
}

func (r *ram) Info() block.Info {
	i := block.Info{Size: uint64(len(r.data)), BlockSize: 512, PreferredBlock: 4096, MaxTransfer: 256 << 10,
		Caps: block.CapFlush | block.CapFlushCoversAll | block.CapWriteZeroes | block.CapBlockStatus}
	if r.looked {
		i.Size /= 2
	}
	if r.fault == "info" {
		i.PreferredBlock = 1000
	}
	return i
}

func (r *ram) Rescan(context.Context) error {
	if r.fault == "blind" {
		return errors.New("there is nothing to be seen")
	}
	r.looked = r.fault == "shrinks"
	return nil
}

func (r *ram) Channel(done store.Completer) (store.Channel, error) { return &ramChannel{r, done}, nil }
func (r *ram) Close() error                                        { return nil }

type ramChannel struct {
	ram  *ram
	done store.Completer
}

func (c *ramChannel) Close() {}

func (c *ramChannel) Submit(batch []*block.Request) {
	for _, r := range batch {
		c.ram.serve(r)
		switch c.ram.fault {
		case "twice":
			c.done.Complete(r)
		case "async":
			go c.done.Post([]*block.Request{r})
			continue
		case "late complete":
			go c.done.Complete(r)
			continue
		}
		c.done.Complete(r)
	}
}

func (d *ram) serve(r *block.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	at := r.Offset
	switch r.Op {
	case block.OpRead:
		for _, seg := range r.Data {
			at += uint64(copy(seg, d.data[at:]))
		}
		if r.Filled = r.Length; d.fault == "unfilled" {
			r.Filled--
		}
	case block.OpWrite:
		for _, seg := range r.Data {
			at += uint64(copy(d.data[at:], seg))
			if d.fault == "first segment" {
				break
			}
		}
	case block.OpWriteZeroes:
		if d.fault != "forgets zeroes" {
			clear(d.data[at : at+r.Length])
		}
	case block.OpBlockStatus:
		r.Extents = append(r.Extents, block.Extent{Length: r.Length})
	case block.OpFlush:
	default:
		r.Status = block.ENOTSUP
	}
}

func storeHarness(fault string) sdktest.StoreHarness {
	d := &ram{fault: fault, data: make([]byte, 1<<20)}
	return sdktest.StoreHarness{Manifest: d.Manifest(), Open: func(t sdktest.TB, readOnly bool) store.Device {
		dev, err := d.Open(context.Background(), store.Options{ReadOnly: readOnly})
		if err != nil {
			t.Fatal(err)
		}
		return dev
	}}
}

func TestStore(t *testing.T) {
	sdktest.RunStore(t, storeHarness(""))
	sdktest.RunStore(t, storeHarness("async"))
}

// The suite finds each fault, which is also the proof that it looks.
func TestStoreFaults(t *testing.T) {
	for fault, says := range map[string]string{
		"info": "preferred", "twice": "not outstanding", "unfilled": "filled", "late complete": "use Post",
		"first segment": "same data false", "forgets zeroes": "written last", "forgets": "another identity",
		"shrinks": "it is smaller", "blind": "nothing to be seen",
	} {
		var said []string
		r := sdktest.NewRunner(time.Minute, func(r sdktest.Result) { said = append(said, r.Findings...) })
		sdktest.RunStore(r, storeHarness(fault))
		if all := strings.Join(said, "\n"); !strings.Contains(all, says) {
			t.Errorf("%s: the suite says %q, want …%s…", fault, all, says)
		}
	}
}
