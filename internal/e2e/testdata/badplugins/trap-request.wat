;; Traps at each request.
(func $request (param $p i32) (unreachable))
