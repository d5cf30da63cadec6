;; Leaves what the server sends where it is.
(func $received (param $p i32))
