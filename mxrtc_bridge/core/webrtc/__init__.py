"""What WebRTC says in text: session descriptions (SDP), candidates, ICE servers, and addresses that are allowed."""
