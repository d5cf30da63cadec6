package badplugins

import (
	"testing"

	"blockengine/sdk/block"
	"blockengine/sdk/sdktest"
	"blockengine/sdk/sdktest/testplugins/tiny/server"
)

// tolerated are faults that break no rule of the contract by themselves: an
// engine has to live with them, and the executor has nothing to say. The rest
// of the list never comes back, or needs the whole process.
var tolerated = map[string]bool{
	TimerFlood: true, PublishFlood: true, LogFlood: true, SendFlood: true, ShrinkDisk: true, RefuseAll: true,
	NeverComplete: true, IgnoreGoodbye: true, FailAlways: true, FailForever: true, CloseAtOnce: true,
	RedirectElsewhere: true,
	TakeTooMany:       true, // the machine cuts it
}

// stalls are those of them after which requests never get done, which the
// executor does complain of.
var stalls = map[string]bool{RefuseAll: true, NeverComplete: true, SendFlood: true, TakeTooMany: true, CloseAtOnce: true}

var endless = map[string]bool{LoopForever: true, LoopLogin: true, Recurse: true, EatMemory: true}

// The executor finds every fault that breaks the contract, which is also the
// proof that it looks.
func TestFaultsAreFound(t *testing.T) {
	for _, fault := range append([]string{""}, Faults...) {
		if endless[fault] {
			continue
		}
		t.Run(fault, func(t *testing.T) {
			x := run(t, fault)
			switch found := len(x.Violations) > 0; {
			case fault == "" && found:
				t.Fatalf("without a fault: %q", x.Violations)
			case fault != "" && !tolerated[fault] && !found:
				t.Fatal("the executor did not find the fault")
			case tolerated[fault] && !stalls[fault] && found:
				t.Fatalf("not against the contract, but: %q", x.Violations)
			}
		})
	}
}

// run drives the plugin through all it can do wrong.
func run(t *testing.T, fault string) *sdktest.Executor {
	d := server.NewDisk(4 << 20)
	x := sdktest.NewExecutor(t, sdktest.NewLinked(Plugin()), sdktest.Answers(d.Connect().Answer), sdktest.Options{
		Manifest: Plugin().Manifest(), Values: map[string]string{"fault": fault},
	})
	x.Open()
	if x.Limits == nil || len(x.Violations) > 0 {
		return x
	}
	x.Advance(5e6)
	for _, op := range []block.Op{block.OpWrite, block.OpRead, block.OpBlockStatus} {
		r := &sdktest.Request{Op: op, Length: 4096}
		if op == block.OpWrite {
			r.Data = make([]byte, 4096)
		}
		x.Do(r)
		if x.Over() {
			return x
		}
	}
	x.Save()
	x.Goodbye()
	return x
}
