;; Closes as soon as its login is done.
(func $opened (call $limits) (call $goodbye))
