package sdktest

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

// Runner runs the suite outside of go test. It is a Tester.
//
//	r := sdktest.NewRunner(report)
//	sdktest.Run(r, harness)
type Runner struct {
	name   string
	limit  time.Duration
	report func(Result)

	mu       sync.Mutex // guards what follows: a test may have several goroutines
	failed   bool
	skipped  bool
	reason   string
	findings []string
	logs     []string
	cleanups []func()
}

// Result is how one test ended.
type Result struct {
	Name     string
	Failed   bool
	Skipped  bool
	Reason   string   // why it was skipped
	Findings []string // what is wrong; Cite finds the manual's place in them
	Logs     []string
	Took     time.Duration
}

// maxFindings bounds what one test says.
const maxFindings = 20

// NewRunner makes a runner that reports each test when it is over. A test that
// is not over after limit has failed, and is left behind.
func NewRunner(limit time.Duration, report func(Result)) *Runner {
	return &Runner{limit: limit, report: report}
}

// Run runs a test, reports it, and tells whether it did not fail.
func (r *Runner) Run(name string, f func(*Runner)) bool {
	if r.name != "" {
		name = r.name + "/" + name
	}
	t := &Runner{name: name, limit: r.limit, report: r.report}
	done := make(chan struct{})
	begin := time.Now()
	go t.work(f, done)
	res := Result{Name: name}
	timer := time.NewTimer(r.limit)
	defer timer.Stop()
	select {
	case <-done:
		t.mu.Lock() // of a goroutine that it has left behind
		res.Failed, res.Skipped, res.Reason, res.Findings, res.Logs = t.failed, t.skipped, t.reason, t.findings, t.logs
		t.mu.Unlock()
	case <-timer.C: // t belongs to a goroutine that goes on
		res.Failed = true
		res.Findings = []string{fmt.Sprintf("it did not come to an end within %v", r.limit)}
	}
	res.Took = time.Since(begin)
	r.report(res)
	r.failed = r.failed || res.Failed
	return !res.Failed
}

// work runs a test on a goroutine of its own, which FailNow and Skip end.
func (r *Runner) work(f func(*Runner), done chan<- struct{}) {
	defer close(done)
	defer r.recovered()
	defer func() {
		for _, c := range slices.Backward(r.cleanups) {
			c()
		}
	}()
	defer r.recovered() // a clean-up comes in any case
	f(r)
}

func (r *Runner) recovered() {
	if p := recover(); p != nil {
		r.Errorf("the suite itself panicked: %v\n%s", p, debug.Stack())
	}
}

// Helper is for go test.
func (r *Runner) Helper() {}

// Name gives the test's name.
func (r *Runner) Name() string { return r.name }

// Logf notes something that is no finding.
func (r *Runner) Logf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.logs) < maxFindings {
		r.logs = append(r.logs, fmt.Sprintf(format, args...))
	}
}

// Error fails the test, which goes on.
func (r *Runner) Error(args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = true
	if len(r.findings) < maxFindings {
		r.findings = append(r.findings, fmt.Sprint(args...))
	}
}

// Errorf fails the test, which goes on.
func (r *Runner) Errorf(format string, args ...any) { r.Error(fmt.Sprintf(format, args...)) }

// Fatal fails the test and ends it.
func (r *Runner) Fatal(args ...any) { r.Error(args...); r.FailNow() }

// Fatalf fails the test and ends it.
func (r *Runner) Fatalf(format string, args ...any) { r.Errorf(format, args...); r.FailNow() }

// FailNow ends the test, failed.
func (r *Runner) FailNow() {
	r.mu.Lock()
	r.failed = true
	r.mu.Unlock()
	runtime.Goexit()
}

// Failed tells whether the test has failed.
func (r *Runner) Failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

// Skip ends the test.
func (r *Runner) Skip(args ...any) {
	r.mu.Lock()
	r.skipped, r.reason = true, fmt.Sprint(args...)
	r.mu.Unlock()
	runtime.Goexit()
}

// Skipf ends the test.
func (r *Runner) Skipf(format string, args ...any) { r.Skip(fmt.Sprintf(format, args...)) }

// Cleanup has f called when the test is over, the last one first.
func (r *Runner) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }
