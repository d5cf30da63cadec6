package vhostuser

import (
	"flag"
	"os"
	"os/signal"
	"path/filepath"
	"testing"
	"time"

	"blockengine/engine/volume"
	"blockengine/sdk/block"
	"blockengine/sdk/store"
)

var (
	serve    = flag.String("vhostuser.serve", "", "serve a disk at this Unix socket until interrupted, for measurements")
	image    = flag.String("vhostuser.image", "", "what the disk holds at first; else it is a null disk of 1 GiB")
	reactors = flag.Int("vhostuser.reactors", 1, "reactors to serve with")
	spin     = flag.Duration("vhostuser.spin", 20*time.Microsecond, "spin time of these")
)

// nullDisk answers everything at once and holds nothing.
type nullDisk struct{ info block.Info }

func newNullDisk(size uint64) nullDisk {
	return nullDisk{block.Info{Size: size, BlockSize: 512, PreferredBlock: 4096, Caps: allCaps, Identity: "null"}}
}

func (d nullDisk) Info() block.Info { return d.info }
func (d nullDisk) Close() error     { return nil }
func (d nullDisk) Channel(done store.Completer) (store.Channel, error) {
	return nullChannel{done}, nil
}

type nullChannel struct{ done store.Completer }

func (c nullChannel) Close() {}
func (c nullChannel) Submit(batch []*block.Request) {
	for _, r := range batch {
		r.Filled = r.Length
		c.done.Complete(r)
	}
}

// TestServe serves until interrupted, for measurements by hand; see
// -vhostuser.serve.
func TestServe(t *testing.T) {
	if *serve == "" {
		t.Skip("for measurements only: give -vhostuser.serve SOCKET")
	}
	rs := newReactors(t, *reactors, *spin)
	null := newNullDisk(1 << 30)
	v := volume.New(volume.Options{Name: "v", Reactors: rs})
	var err error
	if *image == "" {
		err = v.Attach(volume.Store(null), null.info)
	} else {
		var content []byte
		if content, err = os.ReadFile(*image); err != nil {
			t.Fatal(err)
		}
		d := newDisk(len(content))
		copy(d.data, content)
		err = v.Attach(volume.Store(d), d.info)
	}
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(Options{Reactors: rs})
	l, err := s.Listen(filepath.Clean(*serve))
	if err == nil {
		err = l.Start(Export{Name: "disk", Volume: v, Queues: 4, Serial: "served"})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("serving at %s", l.Addr())
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt)
	<-stop
	t.Logf("%+v", s.Stats())
	_ = s.Shutdown(t.Context())
}
