package sdktest

// TB is what the suite and the executor tell their findings. *testing.T,
// *testing.B and *testing.F are one each, and so is the Runner of this package,
// for use outside of go test. The methods mean what they mean there.
type TB interface {
	Helper()
	Name() string
	Logf(format string, args ...any)
	Error(args ...any)
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	FailNow()
	Failed() bool
	Skip(args ...any)
	Skipf(format string, args ...any)
	Cleanup(f func())
}

// Tester is a TB that runs parts of a test as tests of their own: *testing.T,
// or *Runner.
type Tester[T any] interface {
	TB
	Run(name string, f func(T)) bool
}
