-- For wrk: each connection pauses before each request, so that the load is steady and not the largest possible.

function delay() -- milliseconds
  return 10
end
