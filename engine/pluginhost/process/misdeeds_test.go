package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"blockengine/sdk/block"
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
	case "impostor": // where somebody else listens
		path := filepath.Join(os.Getenv(socketDirEnv), "plugin1")
		if err := os.Symlink(os.Args[2], path); err != nil {
			panic(err)
		}
		fmt.Printf("1|1|unix|%s|grpc|\n", path)
		time.Sleep(time.Minute)
	case "flood":
		go flood()
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
	if strings.HasPrefix(p.kind, "grows") {
		m.Name = "grows"
	}
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
	case p.kind == "stuck":
		return &stuck{testDevice{kind: "memory"}}, nil
	case p.kind == "nonsense":
		return &nonsense{testDevice{kind: "memory"}}, nil
	case p.kind == "exclusive":
		if p.open.Swap(true) {
			return nil, errors.New("it is open already")
		}
		return &exclusive{testDevice{kind: "memory"}, p}, nil
	case p.kind == "grows":
		return &growing{testDevice: testDevice{kind: "memory"}}, nil
	case p.kind == "grows by itself":
		return &restless{growing{testDevice: testDevice{kind: "memory"}}}, nil
	case p.kind == "grows wrong":
		return &wrong{growing{testDevice: testDevice{kind: "memory"}}}, nil
	case p.kind == "null":
		return &testDevice{kind: "null"}, nil
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

// stuck never finishes a request.
type stuck struct{ testDevice }

func (d *stuck) Channel(store.Completer) (store.Channel, error) { return stuckChannel{}, nil }

type stuckChannel struct{}

func (stuckChannel) Submit([]*block.Request) {}
func (stuckChannel) Close()                  {}

// nonsense describes a disk that cannot be.
type nonsense struct{ testDevice }

func (d *nonsense) Info() block.Info { return block.Info{Size: 1 << 20, BlockSize: 513} }

// flood writes to the log without end, past what go-plugin reads.
func flood() {
	line := append(bytes.Repeat([]byte("y"), 200), '\n')
	for {
		_, _ = syscall.Write(2, line)
	}
}
