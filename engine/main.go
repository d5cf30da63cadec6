// Command engine stands between those who need a block device and those who
// store the bytes. This package holds its commands and wires the parts
// together; what the parts do is theirs.
//
// Read first: ARCHITECTURE.md; here run.go (from the first check to the last
// line), then preflight.go and engine.go.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"blockengine/engine/config"
)

// Exit statuses (DESIGN, chapter 7).
const (
	exitDone   = 0
	exitFailed = 1
	exitWrong  = 2 // wrong usage or configuration
)

func main() {
	os.Exit(execute(os.Args[1:], os.Stdout, os.Stderr))
}

// execute runs a command line and gives its exit status.
func execute(args []string, stdout, stderr io.Writer) int {
	root := rootCommand()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteC()
	if err == nil {
		return exitDone
	}
	return report(stderr, cmd, err)
}

// failure is an error of a command that was used as it should be.
type failure struct{ err error }

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// misuse is wrong usage that a command's body has found.
type misuse struct{ err error }

func (m *misuse) Error() string { return m.err.Error() }
func (m *misuse) Unwrap() error { return m.err }

// silent ends a command with a status and nothing more to say.
type silent int

func (s silent) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// report says what went wrong and gives the exit status: what no command has
// returned as a failure is wrong usage.
func report(stderr io.Writer, cmd *cobra.Command, err error) int {
	var quiet silent
	var problems config.Problems
	var failed *failure
	switch {
	case errors.As(err, &quiet):
		return int(quiet)
	case errors.As(err, &problems):
		fmt.Fprintln(stderr, problems.Error())
		return exitWrong
	case errors.As(err, &failed):
		fmt.Fprintln(stderr, "engine:", err)
		return exitFailed
	}
	fmt.Fprintf(stderr, "engine: %v: see %s --help\n", err, cmd.CommandPath())
	return exitWrong
}

func rootCommand() *cobra.Command {
	root := group("engine", "A storage engine: block devices in front, storage servers behind, protocol plugins between",
		runCommand(), checkCommand(), statusCommand(), versionCommand(), pluginCommand(), volumeCommand(),
		deviceCommand(&ublkCommands), deviceCommand(&nbdKernelCommands), compileCommand(), sandboxCommand())
	root.SilenceErrors, root.SilenceUsage = true, true
	root.CompletionOptions.HiddenDefaultCmd = true
	return root
}

// group makes a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs}
	g.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(cmd, args[0])
		}
		return fmt.Errorf("name a command: %s", strings.Join(commandNames(cmd), ", "))
	}
	g.AddCommand(commands...)
	return g
}

func unknownCommand(cmd *cobra.Command, name string) error {
	cmd.SuggestionsMinimumDistance = 2 // letters that differ
	if near := cmd.SuggestionsFor(name); len(near) > 0 {
		return fmt.Errorf("there is no command %q: do you mean %s", name, strings.Join(near, " or "))
	}
	return fmt.Errorf("there is no command %q: there are %s", name, strings.Join(commandNames(cmd), ", "))
}

func commandNames(cmd *cobra.Command) []string {
	var names []string
	for _, c := range cmd.Commands() {
		if !c.Hidden && c.Name() != "help" && c.Name() != "completion" {
			names = append(names, c.Name())
		}
	}
	return names
}

// does makes a command's body of a function whose errors are failures, not
// wrong usage.
func does(f func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if cmd.Context() == nil {
			cmd.SetContext(context.Background())
		}
		err := f(cmd, args)
		var wrong *misuse
		if err == nil || errors.As(err, &wrong) {
			return err
		}
		return &failure{err}
	}
}

// noArgs refuses arguments in words that say what to do.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s takes no argument, and got %q", cmd.CommandPath(), args[0])
	}
	return nil
}

// oneArg refuses any other number of arguments than one, which is called what.
func oneArg(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return fmt.Errorf("%s takes one argument, %s, and got %d", cmd.CommandPath(), what, len(args))
		}
		return nil
	}
}
