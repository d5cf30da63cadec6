//go:build !wasip1

package nbd

import (
	"context"
	"os"
	"testing"

	face "blockengine/engine/pluginhost/guest"
	"blockengine/engine/pluginhost/process"
	"blockengine/engine/pluginhost/sandbox"
	"blockengine/engine/reactor"
	"blockengine/sdk/manifest"
	sdkprocess "blockengine/sdk/process"
	"blockengine/sdk/process/control"
	"blockengine/sdk/sdktest"
)

// The test's own program is the plugin's, and the shim of its sandbox.
func init() {
	if len(os.Args) > 1 && os.Args[1] == sandbox.Command {
		os.Exit(sandbox.Main(os.Args[2:]))
	}
	if h := control.Handshake(); os.Getenv(h.MagicCookieKey) == h.MagicCookieValue {
		sdkprocess.Serve(sdkprocess.Options{Protocol: Plugin()})
	}
}

// apart makes an instance in a process answer at once.
type apart struct {
	face.Apart
	r        *reactor.Reactor
	answered chan struct{}
}

func (a *apart) on(f func()) {
	done := make(chan struct{})
	a.r.Post(reactor.MailFunc(func() { f(); close(done) }))
	<-done
}

func (a *apart) Call(n int, budget int64) (actions []byte, more bool, err error) {
	a.on(func() { a.Begin(n, budget) })
	<-a.answered // a process that does not answer is killed
	a.on(func() { actions, more, err = a.Answer() })
	return actions, more, err
}

func (a *apart) Close() { a.on(a.Apart.Close) }

// processes makes instances in a process of the test's own program.
func processes(t *testing.T) (func(sdktest.TB) sdktest.Instance, manifest.Manifest) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l, err := process.Load(t.Context(), process.Options{Name: "nbd", Path: exe})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	r, err := reactor.New(reactor.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r.Start()
	t.Cleanup(r.Stop)
	m := l.Protocol()
	return func(t sdktest.TB) sdktest.Instance {
		t.Helper()
		i, err := m.NewInstance(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		a := &apart{Apart: i.(face.Apart), r: r, answered: make(chan struct{}, 1)}
		a.on(func() { err = a.Attach(r, func() { a.answered <- struct{}{} }) })
		if err != nil {
			t.Fatal(err)
		}
		return a
	}, m.Manifest()
}

func TestConformanceProcess(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: starts no processes")
	}
	open, m := processes(t)
	for name, server := range serversAgain() {
		t.Run(name, func(t *testing.T) {
			sdktest.Run(t, sdktest.Harness{Manifest: m, Values: map[string]string{"export": "disk0"}, Open: open,
				Dial: func(sdktest.TB) sdktest.Server { return server.dial() }})
		})
	}
}
