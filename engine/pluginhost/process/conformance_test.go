package process

import (
	"context"
	"testing"

	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/reactor"
	"blockengine/sdk/process"
	"blockengine/sdk/protocol"
	"blockengine/sdk/sdktest"
	"blockengine/sdk/sdktest/testplugins/tiny"
	"blockengine/sdk/sdktest/testplugins/tiny/server"
)

// protocols are the protocol plugins that pluginMain serves.
var protocols = map[string]protocol.Plugin{
	"echo": echoPlugin{}, "tiny": tiny.Plugin(), "tiny-copy": tiny.Transforming(),
}

func serveProtocol(kind string) {
	if p, ok := protocols[kind]; ok {
		process.Serve(process.Options{Protocol: p})
	}
}

// apart makes an Instance of the suite of one that answers later.
type apart struct {
	guest.Apart
	r        *reactor.Reactor
	answered chan struct{}
}

func newApart(t sdktest.TB, m guest.Module, r *reactor.Reactor) sdktest.Instance {
	t.Helper()
	i, err := m.NewInstance(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	a := &apart{Apart: i.(guest.Apart), r: r, answered: make(chan struct{}, 1)}
	on(r, func() { err = a.Attach(r, func() { a.answered <- struct{}{} }) })
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *apart) Call(n int, budget int64) (actions []byte, more bool, err error) {
	on(a.r, func() { a.Begin(n, budget) })
	<-a.answered // a process that does not answer is killed
	on(a.r, func() { actions, more, err = a.Answer() })
	return actions, more, err
}

func (a *apart) Close() { on(a.r, a.Apart.Close) }

func TestConformance(t *testing.T) {
	for _, c := range []struct {
		kind, features string
		disk           *server.Disk
	}{
		{"tiny", "digest,hash,credits,keepalive,session", &server.Disk{Credits: 7, Pieces: true}},
		{"tiny-copy", "credits,session", &server.Disk{Credits: 5, Pieces: true, Transformed: true}},
	} {
		t.Run(c.kind, func(t *testing.T) {
			m, r := load(t, testOptions(t, c.kind)).Protocol(), testReactor(t)
			if got, want := m.Manifest(), guest.Linked(protocols[c.kind]).Manifest(); got.Name != want.Name || got.Payload != want.Payload || len(got.Options) != len(want.Options) {
				t.Errorf("the manifest is %+v, linked in it is %+v", got, want)
			}
			c.disk.Fill(4 << 20)
			sdktest.Run(t, sdktest.Harness{
				Manifest: m.Manifest(),
				Values:   map[string]string{"features": c.features},
				Open:     func(t sdktest.TB) sdktest.Instance { return newApart(t, m, r) },
				Dial:     func(sdktest.TB) sdktest.Server { return sdktest.Answers(c.disk.Connect().Answer) },
			})
		})
	}
}
