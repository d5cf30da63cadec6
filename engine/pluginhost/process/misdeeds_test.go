package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"blockengine/sdk/process"
	"blockengine/sdk/store"
)

// pluginMain is the main of the plugin's process in tests.
func pluginMain(kind string) {
	switch kind {
	case "exits":
		fmt.Fprintln(os.Stderr, "these are my last words")
		os.Exit(3)
	case "says":
		fmt.Println("hello")
		time.Sleep(time.Minute)
	case "elsewhere": // where the engine's own sockets could be
		fmt.Println("1|1|unix|/run/engine/admin.sock|grpc|")
		time.Sleep(time.Minute)
	}
	serveProtocol(kind)
	process.Serve(process.Options{Store: &testPlugin{kind: kind}})
}

// testPlugin is a store with misdeeds.
type testPlugin struct {
	kind string
	open atomic.Bool
}

func (p *testPlugin) Manifest() store.Manifest {
	m := store.Manifest{Name: p.kind, Version: "1", FenceOnExit: true,
		Options: []store.Option{{Name: "size", Type: store.Size, Help: "of the disk"}}}
	if p.kind == "othername" {
		m.Name = "a name with spaces"
	}
	return m
}

func (p *testPlugin) Open(_ context.Context, o store.Options) (store.Device, error) {
	switch {
	case o.Volume == "refused":
		return nil, errors.New("this volume is refused: name another")
	case o.Volume == "panics":
		panic("no such volume")
	case p.kind == "exclusive":
		if p.open.Swap(true) {
			return nil, errors.New("it is open already")
		}
		return &exclusive{testDevice{kind: "memory"}, p}, nil
	}
	return &testDevice{kind: "memory"}, nil
}

// exclusive is a disk that is open once.
type exclusive struct {
	testDevice
	p *testPlugin
}

func (d *exclusive) Close() error {
	d.p.open.Store(false)
	return nil
}
